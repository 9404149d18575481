# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import StateError
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_lock import exclusive


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


HOLD = """
import signal
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_lock import exclusive
with exclusive("vApp 'a'", "a", timeout=5):
    print("held", flush=True)
    signal.pause()
"""


def test_second_one_waits_and_another_name_does_not() -> None:
    order = []
    with exclusive("vApp 'a'", "a", timeout=5):

        def second() -> None:
            with exclusive("vApp 'a'", "a", timeout=5):
                order.append("second")

        waiting = threading.Thread(target=second)
        waiting.start()
        with exclusive("vApp 'b'", "b", timeout=0):
            order.append("other")
        order.append("first")
    waiting.join()
    assert order == ["other", "first", "second"]


def test_waiting_has_an_end_that_names_the_vapp() -> None:
    with (
        exclusive("vApp 'a'", "a", timeout=1),
        pytest.raises(StateError, match=r"other runs have been working on vApp 'a' for 0 seconds"),
        exclusive("vApp 'a'", "a", timeout=0),
    ):
        pass


def test_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    collections = Path(__file__).resolve().parents[7]
    environment = {**os.environ, "PYTHONPATH": str(collections), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"held\n"
        with pytest.raises(StateError), exclusive("vApp 'a'", "a", timeout=0):
            pass
        run.kill()
    with exclusive("vApp 'a'", "a", timeout=0):
        pass


def test_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    with exclusive("vApp 'a'", "a", timeout=0):
        pass
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    with pytest.raises(StateError, match="only this account can write to"), exclusive("vApp 'a'", "a", timeout=0):
        pass
