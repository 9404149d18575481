# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line of the build tool."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from coldmig_iso.cache import Cache, default_root
from coldmig_iso.extras import ExtraFile, Extras
from coldmig_iso.pipeline import BuildOptions, build, publish
from coldmig_iso.run import BuildError
from coldmig_iso.tree import TreeOptions


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 on success, 1 when the image cannot be built."""
    options = _parser().parse_args(arguments)
    say = _say if not options.quiet else _silent
    try:
        cache = Cache(options.cache, say)
        result = build(
            BuildOptions(
                tree=TreeOptions(suite=options.suite, mirror=options.mirror, firmware=options.firmware),
                compression=options.compression,
                agent=options.agent,
                refresh=options.refresh,
                extras=Extras(
                    packages=tuple(options.package),
                    modules=tuple(options.module),
                    boot_modules=tuple(options.boot_module),
                    firmware=tuple(options.firmware_file),
                    files=tuple(options.file),
                ),
            ),
            cache,
            say,
        )
        changed = publish(result, options.output) if options.output else result.built
    except BuildError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    path = options.output or result.path
    size = path.stat().st_size
    facts = {
        "path": str(path),
        "volume_id": result.volume_id,
        "size_bytes": size,
        "changed": changed,
        "seconds": result.seconds,
        "report": result.report.splitlines(),
    }
    if options.json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"{path} ({size / (1 << 20):.1f} MiB, {result.volume_id})\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="iso-build", description="Build the base ISO of cda.coldmig.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="build the base ISO, or take it from the cache")
    command.add_argument("--output", type=Path, help="where to put the image (default: only in the cache)")
    command.add_argument("--suite", default="bookworm", help="Debian suite (default: %(default)s)")
    command.add_argument("--mirror", help="archive or sources file; default: this machine's sources of the suite")
    command.add_argument(
        "--compression",
        default="zstd-15",
        help="zstd-1 to zstd-22, xz, gzip, optional block size: zstd-19-256K (default: %(default)s)",
    )
    command.add_argument("--agent", type=Path, help="ready agent zipapp (default: built from the sources beside)")
    command.add_argument(
        "--firmware",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="adapter firmware from non-free-firmware",
    )
    add = command.add_argument_group("additions (each may be given several times)").add_argument
    add("--package", action="append", default=[], metavar="NAME", help="Debian package")
    add("--module", action="append", default=[], metavar="NAME|PATTERN|FILE.ko", help="kernel module")
    add("--boot-module", action="append", default=[], metavar="NAME|PATTERN|FILE.ko", help="also for the initrd")
    add("--firmware-file", action="append", default=[], metavar="PATTERN", help="below /usr/lib/firmware")
    add("--file", action="append", default=[], type=_extra_file, metavar="SOURCE:/DEST", help="file of this machine")
    command.add_argument("--refresh", action="store_true", help="fetch the Debian packages anew")
    command.add_argument("--cache", type=Path, help=f"cache directory (default: {default_root()})")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _extra_file(text: str) -> ExtraFile:
    source, colon, dest = text.rpartition(":")
    if not colon or not source:
        raise argparse.ArgumentTypeError(f"{text!r}: give SOURCE:/DEST")
    return ExtraFile(Path(source), dest)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _silent(_text: str) -> None:
    return
