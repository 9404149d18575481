# SPDX-License-Identifier: GPL-3.0-or-later
"""Build cache: one directory per stage and key, published by rename, so it is whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coldmig_iso.run import BuildError


def default_root() -> Path:
    """``$COLDMIG_CACHE``, else ``coldmig`` in the user's cache directory."""
    own = os.environ.get("COLDMIG_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "coldmig"


def digest_of(*parts: str | bytes | Path | Iterable[str]) -> str:
    """Key of a stage: SHA-256 over its inputs. A path counts with its content, a directory with all its files."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(_content(part)).digest())
    return total.hexdigest()[:32]


def _content(part: str | bytes | Path | Iterable[str]) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, Path):
        if part.is_dir():
            files = (path for path in sorted(part.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
            return b"".join(
                f"{path.relative_to(part)}\0{path.stat().st_mode & 0o111:o}\0".encode() + _content(path)
                for path in files
            )
        return hashlib.sha256(part.read_bytes()).digest()
    return "\0".join(part).encode()


_IN_USE_SECONDS = 6 * 3600
"""Results used more recently stay: another build or a test may be reading them."""


class Cache:
    """Stage results under ``root/iso``."""

    def __init__(self, root: Path | None = None, say: Callable[[str], None] = lambda _text: None) -> None:
        self.root = (root or default_root()) / "iso"
        self._say = say
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise BuildError(f"cache directory {self.root}: {exc.strerror}; set COLDMIG_CACHE") from exc
        for left in self.root.glob("tmp-*"):  # of a build that was killed
            if time.time() - left.stat().st_mtime > _IN_USE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)

    def stage(self, name: str, key: str, build: Callable[[Path], None], *, keep: int = 3) -> Path:
        """Return the directory of a stage's result; ``build(directory)`` fills it when it is not there yet.

        :param keep: how many results of this stage stay in any case; older ones go when they were not used for hours.
        """
        final = self.root / f"{name}-{key}"
        with self._lock(name):
            if final.is_dir():
                os.utime(final)
                return final
            self._say(f"{name}: building")
            with self.scratch(name) as work:
                result = work / "result"
                result.mkdir()
                build(result)
                result.rename(final)
            self._forget(name, keep)
        return final

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A temporary directory on the cache's file system."""
        work = Path(tempfile.mkdtemp(prefix=f"tmp-{name}-", dir=self.root))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        # Two builds at once would do the same long work twice.
        with (self.root / f"{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _forget(self, name: str, keep: int) -> None:
        results = sorted(
            (path for path in self.root.glob(f"{name}-*") if path.is_dir()), key=lambda path: path.stat().st_mtime
        )
        for old in results[:-keep]:
            if time.time() - old.stat().st_mtime > _IN_USE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
