# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent and its kernel have logged, for the site: bounded, and without anything secret of the ISO."""

from __future__ import annotations

import base64
import gzip
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from coldmig_agent.config import Config
from coldmig_agent.procfs import available_memory, size_of

#: What the site takes of a compressed log, before it is in base64.
MAX_PACKED = 740_000
_HEAD_BYTES = 64 << 10
_TAIL_BYTES = 448 << 10
_KERNEL_BYTES = 1 << 20
_LINE = 2000
_RECORD = 8192  # the longest record of /dev/kmsg, by the kernel's documentation
_LEFT_OUT = "[… lines are left out here …]"

# What looks like a secret is taken out wherever it comes from: the kernel's command line may hold one, for instance.
_PATTERNS = (
    (re.compile(r"cm1_([a-z]{3})_[A-Za-z0-9_-]{8,}"), r"cm1_\1_***"),
    (re.compile(r"://[^/@\s]+@"), "://***@"),
    (re.compile(r"\$[0-9a-z]{1,8}\$[A-Za-z0-9./$,=+-]{8,}"), "$***"),
    (re.compile(r"(?i)(authorization: *\w+ +)\S+"), r"\1***"),
    (
        re.compile(r"(?i)([\w.-]*(?:password|passphrase|passwd|hash|credential|token|secret)[\w.-]*[=:] *)[^\s,;&]+"),
        r"\1***",
    ),
)


class Scrubber:
    """Takes secrets out of text: those that it was made with, and all that looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in (secret, quote(secret, safe="")) if len(secret) >= 3}
        # The longest first: one may be a part of another.
        self._secrets = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def secrets_of(config: Config) -> list[str]:
    """Everything on the ISO that nobody else may read."""
    found = [config.credential]
    if config.site.proxy is not None and config.site.proxy.password:
        pair = f"{config.site.proxy.user or ''}:{config.site.proxy.password}"
        found += [config.site.proxy.password, base64.b64encode(pair.encode()).decode()]
    if config.access.root_password_hash:
        found.append(config.access.root_password_hash)
    return found


class LogKeeper(logging.Handler):
    """Keeps the first and the last lines that were logged, in half a MiB of memory at most."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._guard = threading.Lock()
        self._head: list[str] = []
        self._head_bytes = 0
        self._tail: deque[str] = deque()
        self._tail_bytes = 0
        self._lost = False
        self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
        if self.formatter is not None:
            self.formatter.converter = time.gmtime

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        try:
            text = self.format(record)
        except (TypeError, ValueError):
            return self.handleError(record)
        with self._guard:
            for line in text.splitlines():
                self._keep(line[:_LINE])
        return None

    def lines(self) -> list[str]:
        """What is kept, oldest first."""
        with self._guard:
            return [*self._head, *([_LEFT_OUT] if self._lost else []), *self._tail]

    def _keep(self, line: str) -> None:
        size = len(line) + 64  # about what it takes in memory
        if not self._tail and self._head_bytes + size <= _HEAD_BYTES:
            self._head.append(line)
            self._head_bytes += size
            return
        self._tail.append(line)
        self._tail_bytes += size
        while self._tail_bytes > _TAIL_BYTES:
            self._tail_bytes -= len(self._tail.popleft()) + 64
            self._lost = True


def kernel_lines(device: Path = Path("/dev/kmsg")) -> list[str]:
    """The kernel's log, oldest first; empty where it cannot be read. Record format: Documentation/ABI dev-kmsg."""
    lines: list[str] = []
    size = 0
    try:
        fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        while size < _KERNEL_BYTES:
            try:
                record = os.read(fd, _RECORD)
            except BrokenPipeError:  # it was overwritten meanwhile; the next one is there
                continue
            except OSError:
                break
            if not record:
                break
            line = _kernel_line(record)
            lines.append(line)
            size += len(line)
    finally:
        os.close(fd)
    return lines


def _kernel_line(record: bytes) -> str:
    prefix, _semicolon, message = record.decode("utf-8", "replace").partition(";")
    fields = prefix.split(",")
    at = int(fields[2]) / 1e6 if len(fields) > 2 and fields[2].isdigit() else 0.0
    return f"[{at:12.6f}] {message.splitlines()[0] if message else ''}"[:_LINE]


class MemoryWatch:
    """Looks at the free memory once in a while and remembers when it was least. A context manager."""

    def __init__(self, proc: Path = Path("/proc"), seconds: float = 1.0) -> None:
        self._proc = proc
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        #: Bytes.
        self.least: int | None = None

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look now."""
        available = available_memory(self._proc)
        if available is not None and (self.least is None or available < self.least):
            self.least = available

    def line(self) -> str:
        """``memory: 981120 KiB, least available 612000 KiB, agent at most 61200 KiB``."""
        self.look()
        total, peak = size_of(self._proc / "meminfo", "MemTotal"), size_of(self._proc / "self/status", "VmHWM")
        return f"memory: {_kib(total)}, least available {_kib(self.least)}, agent at most {_kib(peak)}"

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.look()


def _kib(size: int | None) -> str:
    return f"{None if size is None else size // 1024} KiB"


def pack(parts: Sequence[tuple[str, Sequence[str]]], scrub: Scrubber, limit: int = MAX_PACKED) -> bytes:
    """All parts (title, lines) as one text, compressed to at most ``limit`` bytes: where it is too much, every part
    loses its older half, again and again.
    """
    shown = [(title, [scrub(line) for line in lines]) for title, lines in parts]
    while True:
        text = "".join(f"== {title}\n" + "".join(f"{line}\n" for line in lines) + "\n" for title, lines in shown)
        packed = gzip.compress(text.encode("utf-8", "replace"), 6, mtime=0)
        if len(packed) <= limit or not any(lines for _title, lines in shown):
            return packed
        shown = [(title, [_LEFT_OUT, *lines[-(len(lines) // 2) :]] if len(lines) > 1 else []) for title, lines in shown]
