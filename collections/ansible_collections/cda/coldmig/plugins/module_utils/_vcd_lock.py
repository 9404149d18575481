# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""One change at a time for each vApp, also between runs side by side on this host.

VCD locks a vApp while a task runs on it, but not between reading its networks and writing them back. Runs on other
hosts are not seen here; what they might undo is looked at again after each change. A run that is killed leaves no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ansible_collections.cda.coldmig.plugins.module_utils._errors import StateError
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd, entity_id

PAUSE = 0.2
QUEUE = 20
"""How many runs before this one are waited for, each for as long as one step may take."""


def _folder() -> Path:
    """Ours alone: in a folder that all may write to, somebody else could have made it before us."""
    folder = Path(tempfile.gettempdir()) / f"coldmig-vcd-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StateError(f"{folder} is not a folder that only this account can write to; remove it")
    return folder


@contextlib.contextmanager
def exclusive(what: str, *names: str, timeout: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold the lock with these names. Raises StateError, naming *what*, when others keep it for *timeout* seconds."""
    key = hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]
    descriptor = os.open(_folder() / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StateError(f"other runs have been working on {what} for {timeout:g} seconds") from None
                sleep(PAUSE)
        yield
    finally:
        os.close(descriptor)


def alone_with(vcd: Vcd, vdc: str, vapp: str, timeout: float) -> contextlib.AbstractContextManager[None]:
    """No other run here changes the vApp of this name; *timeout* (seconds) is what one step may take."""
    return exclusive(f"vApp {vapp!r}", vcd.url, entity_id(vdc), vapp, timeout=QUEUE * timeout)
