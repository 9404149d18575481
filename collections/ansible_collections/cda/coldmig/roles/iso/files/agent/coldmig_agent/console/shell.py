# SPDX-License-Identifier: GPL-3.0-or-later
"""A root shell on a terminal, for those who know the password."""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import os
import subprocess
import threading
import time
from pathlib import Path

_LIBRARY = "libcrypt.so.1"
WRONG_SECONDS = 2.0
_lock = threading.Lock()


def right_password(password: str, hashed: str) -> bool:
    """Whether the password has this hash, as in ``/etc/shadow``. A wrong one costs time.

    By the C library and not by the ``crypt`` module, which Python has given up.
    """
    if "\0" in password or len(password) > 512:
        return False
    with _lock:  # its result is in memory that the next call overwrites
        try:
            crypt = ctypes.CDLL(_LIBRARY).crypt
        except (OSError, AttributeError):
            return False
        crypt.restype = ctypes.c_char_p
        crypt.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        found = crypt(password.encode("utf-8", "surrogateescape"), hashed.encode("ascii", "replace"))
        right = found is not None and not found.startswith(b"*") and hmac.compare_digest(found, hashed.encode())
        if not right:
            time.sleep(WRONG_SECONDS)
    return right


def run(terminal: Path, term: str, command: tuple[str, ...] = ("/bin/bash", "--login")) -> int:
    """Run a shell with this terminal as its own and wait for its end; its exit status. Raises OSError."""
    fd = os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        environment = {"HOME": "/root", "TERM": term, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        # The terminal becomes the shell's controlling one, so that Ctrl-C reaches what runs in it and nothing else.
        argv = ["setsid", "--ctty", "--wait", *command]
        home = "/root" if Path("/root").is_dir() else "/"
        process = subprocess.Popen(argv, stdin=fd, stdout=fd, stderr=fd, env=environment, cwd=home)
        with contextlib.suppress(OSError):
            # The agent is the last to go when memory runs out, but what is started by hand is the first.
            Path(f"/proc/{process.pid}/oom_score_adj").write_text("500", encoding="ascii")
        return process.wait()
    finally:
        os.close(fd)
