# SPDX-License-Identifier: GPL-3.0-or-later
"""A person at the machine: its screen and keyboard, and its serial line, in one boot of the real image.

``COLDMIG_PICTURES=DIR`` keeps pictures of the screen there; those of docs/images were made so.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import write_iso

from e2e.qemu import Disk, Machine, Nic, Running, Smbios, scaled
from e2e.site import gateway_for_guests, url_for_guests
from support.gateway import Gateway
from support.images import MIB, random_image
from support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.long]
PASSWORD = "open sesame"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_for_guests(tmp_path / "site") as gateway:
        yield gateway


def hashed(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=password, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Line:
    """The serial line as a terminal of 80 x 24 that reads all the time."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._seen = 0

    @property
    def text(self) -> str:
        with self._running.console.open("rb") as file:
            file.seek(self._seen)
            data = file.read()
        self._seen += len(data)
        self._stream.feed(data)
        return "\n".join(self._screen.display)

    def wait_for(self, words: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + scaled(seconds)
        while words not in (text := self.text):
            assert self._running.alive
            assert time.monotonic() < deadline, f"{words!r} never came; the line shows:\n{text}"
            time.sleep(0.2)
        return text

    def type(self, text: str, wait: str) -> str:
        self._running.type_text(text)
        return self.wait_for(wait)


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Running, str], None]:
    def take(running: Running, name: str) -> None:
        time.sleep(scaled(2.5))  # the screen follows within a second
        running.screenshot(Path(os.environ.get("COLDMIG_PICTURES") or tmp_path) / f"{name}.png")

    return take


def test_a_person_at_the_machine(
    site: Gateway, base_iso: Path, tmp_path: Path, picture: Callable[[Running, str], None]
) -> None:
    settings = site.iso("erp", auto_start=False, url=url_for_guests(site.port))
    settings["access"] = {"root_password_hash": hashed(PASSWORD)}
    medium = tmp_path / "template.iso"
    write_iso(base_iso, medium, settings, ["net.ifnames=0"])
    disks = []
    for number in range(2):
        path = random_image(tmp_path / f"disk{number}.img", 4 if number else 48, number)
        os.truncate(path, 96 * MIB)
        disks.append(Disk(path, f"S-{number}"))
    machine = Machine(
        name="console",
        directory=tmp_path,
        medium=medium,
        disks=disks,
        nics=[Nic("virtio-net-pci", "52:54:00:c0:1d:02")],
        smbios=Smbios(),
    )
    site.stop()
    with machine.start() as running:
        line = Line(running)
        # In trouble: the failing step and what to try, by itself, on the line and on the screen.
        running.wait_for("cannot reach .*: connection refused", 90)
        running.wait_for("test of the way to the site: port FAILED: the site .* refuses connections", 30)
        running.wait_for("what to try: Is the service running there", 5)
        running.press("t")
        picture(running, "console-tests")
        running.press("esc")
        picture(running, "console-trouble")

        # The full screen on the serial line: an address of its own instead of DHCP.
        line.type("\r", "PROBLEM")
        line.type("n", "Network of this machine")
        running.press("n")
        picture(running, "console-network")
        running.press("esc")
        line.type("\t\x1510.0.2.77/24\t10.0.2.2\t10.0.2.3", "10.0.2.3")
        line.type("\x1b[21~", "The settings are in force.")
        line.wait_for("10.0.2.77")

        # The shell wants the password.
        line.type("s", "Root password")
        line.type("wrong\r", "not the root password")
        line.type(f"{PASSWORD}\r", "#")
        line.type("ip -4 -brief address; echo $((6*7)) $(cat /proc/self/oom_score_adj)\r", "42 500")
        assert "10.0.2.77/24" in line.text
        assert "10.0.2.15" not in line.text
        line.type("exit\r", "The shell has ended.")
        line.type("q", "coldmig:")

        # The site comes back; disks are chosen before the confirmation, and the machine registers again.
        site.start()
        first = wait_until(lambda: site.migrations("erp"), "the registration", scaled(60))[0]
        assert len(first["disks"]) == 2
        running.wait_for("Waiting for confirmation", 30)
        picture(running, "console-waiting")
        running.press("d", "down")
        picture(running, "console-disks")
        running.press("right", "f10")
        second = wait_until(
            lambda: [one for one in site.migrations("erp") if one["id"] != first["id"]], "another one", scaled(90)
        )[0]
        registered = site.migration(second["id"])["machine"]
        assert [disk["serial"] for disk in registered["disks"]] == ["S-0"]
        assert [one["serial"] for one in registered["left_out"]] == ["S-1"]
        assert site.migration(first["id"])["reason"] == "disks-chosen"

        # Copying; canceled by the person, who must say so twice; and begun again.
        site.call("PATCH", "/site/limits", {"bandwidth_limit": 256 << 10})
        site.call("POST", f"/migrations/{second['id']}/confirm")
        wait_until(lambda: site.migration(second["id"])["disks"][0]["have_chunks"] > 2, "chunks", scaled(60))
        picture(running, "console-copying")
        running.press("c")
        picture(running, "console-cancel")
        running.press("n")
        assert site.migration(second["id"])["state"] == "copying"
        running.press("c", "y")
        wait_until(lambda: site.migration(second["id"])["state"] == "failed", "the cancellation", scaled(30))
        assert site.migration(second["id"])["reason"] == "canceled-at-machine"
        site.call("PATCH", "/site/limits", {"bandwidth_limit": None})
        running.press("a")
        third = wait_until(lambda: len(site.migrations("erp")) == 3 and site.migrations("erp"), "a third", scaled(60))
        newest = next(one for one in third if one["id"] not in {first["id"], second["id"]})
        site.call("POST", f"/migrations/{newest['id']}/confirm")
        wait_until(lambda: site.migration(newest["id"])["state"] == "copied", "the copy", scaled(200))
        running.wait_for("You can power off this machine now", 30)
        picture(running, "console-done")
        stats = running.block_stats()
        line.type("\r", "DONE")
        line.type("p", "powering off in")
        running.wait_exit(60)
    assert all(one.untouched for one in stats)


def test_plain_mode_takes_words_and_sends_no_control_sequence(site: Gateway, base_iso: Path, tmp_path: Path) -> None:
    medium = tmp_path / "template.iso"
    settings = site.iso("plain", auto_start=False, url=url_for_guests(site.port))
    settings["console"] = {"mode": "plain"}
    write_iso(base_iso, medium, settings, ["net.ifnames=0"])
    machine = Machine(
        name="plain",
        directory=tmp_path,
        medium=medium,
        disks=[Disk(random_image(tmp_path / "disk.img", 2, 3), "S-0")],
        nics=[Nic("virtio-net-pci", "52:54:00:c0:1d:02")],
        smbios=Smbios(),
    )
    with machine.start() as running:
        running.wait_for("Waiting for confirmation", 120)
        begin = running.console.stat().st_size
        running.type_text("help\n")
        running.wait_for("status: how it goes", 20)
        running.type_text("status\n")
        running.wait_for(r"^status\s+Waiting for confirmation", 20)
        running.type_text("nonsense\n")
        running.wait_for("'nonsense' is no command", 20)
        running.type_text("poweroff\n")
        running.wait_for("Type yes to do it", 20)
        said = running.console.read_bytes()[begin:]
        stats = running.block_stats()
        running.type_text("yes\n")
        running.wait_exit(60)
    assert not {byte for byte in said if byte < 32} - set(b"\r\n\t")
    assert all(one.untouched for one in stats)
