#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the agent as one executable file (a zipapp) from its package and coldmig_wire.

The same sources and Python always give the same bytes: sorted names, fixed times and modes. Byte code goes beside the
sources, because compiling them at every boot takes a second; a Python of another version does not look at it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_WIRE = HERE.parents[2] / "gateway/files/gateway/src/coldmig_wire"
SHEBANG = b"#!/usr/bin/env python3\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a ZIP archive can hold
_MAIN = b"""\
# SPDX-License-Identifier: GPL-3.0-or-later
import sys

from coldmig_agent.cli import main

sys.exit(main())
"""


def sources(package: Path) -> Iterator[tuple[str, bytes]]:
    """Names in the archive and contents of a package's Python files, sorted."""
    for path in sorted(package.rglob("*.py")):
        yield f"{package.name}/{path.relative_to(package).as_posix()}", path.read_bytes()


def with_byte_code(files: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The files and their byte code, which is never checked against them. Raises OSError where it cannot be made."""
    with tempfile.TemporaryDirectory(prefix="coldmig-agent-") as scratch:
        root = Path(scratch)
        for name, content in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        # In a process of its own: what byte code looks like depends on what a process did before.
        command = [sys.executable, "-I", "-m", "compileall", "-q", "-b", "--invalidation-mode", "unchecked-hash"]
        done = subprocess.run([*command, "-s", scratch, scratch], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"the agent cannot be compiled: {done.stdout.strip()[:500]}")
        compiled = [(str(path.relative_to(root)), path.read_bytes()) for path in root.rglob("*.pyc")]
    return sorted([*files, *compiled])


def build(output: Path, wire: Path) -> None:
    """Write the zipapp; it appears under its name only when it is complete. Raises OSError."""
    if not (wire / "frames.py").is_file():
        raise FileNotFoundError(f"{wire}: must be the directory of the package coldmig_wire")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                files = [("__main__.py", _MAIN), *sources(HERE / "coldmig_agent"), *sources(wire)]
                for name, content in with_byte_code(files):
                    info = zipfile.ZipInfo(name, _EPOCH)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.create_system = 3
                    info.external_attr = 0o100644 << 16
                    archive.writestr(info, content)
        partial.chmod(0o755)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ``build.py OUT [--wire PATH]``."""
    parser = argparse.ArgumentParser(description="Build the agent's executable.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--wire", type=Path, default=DEFAULT_WIRE, help="directory of the package coldmig_wire")
    arguments = parser.parse_args(argv)
    try:
        build(arguments.output, arguments.wire)
    except OSError as error:
        print(f"build.py: {error}", file=sys.stderr)  # noqa: T201 - a command's error
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
