#!/usr/bin/env python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the agent as one executable file (a zipapp) from its package and coldmig_wire.

The same sources always give the same bytes: sorted names, fixed times and modes, no compiled files.
"""

from __future__ import annotations

import argparse
import os
import sys
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
                for name, content in sorted(files):
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
