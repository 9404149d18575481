# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages in order, each with the key of what goes into it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from coldmig_iso import FORMAT, SOURCES, bootloader, image, initrd, layer, squashfs, system, tree
from coldmig_iso.cache import Cache, digest_of
from coldmig_iso.extras import Extras, refuse_packages
from coldmig_iso.image import Parts
from coldmig_iso.run import PACKAGE_OF_TOOL, SOURCE_DATE_EPOCH, require_tools
from coldmig_iso.tree import TreeOptions

AGENT_SOURCES = SOURCES.parent / "agent"


@dataclass(frozen=True)
class BuildOptions:
    """Everything a caller can choose. ``agent``: a ready zipapp; None builds it from the sources beside this tool."""

    tree: TreeOptions = field(default_factory=TreeOptions)
    compression: str = "zstd-15"
    agent: Path | None = None
    refresh: bool = False
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True)
class Built:
    """A finished base image: its file in the cache, volume id, seconds per stage, was anything built, its parts."""

    path: Path
    volume_id: str
    seconds: dict[str, float]
    built: bool
    report: str
    parts: Parts


def build(options: BuildOptions, cache: Cache, say: Callable[[str], None]) -> Built:
    """Build the base image, or find it in the cache.

    :raises BuildError: a tool is missing or fails, or an option is wrong.
    """
    old = os.umask(0o022)  # modes of new files are a part of the image
    try:
        return _build(options, cache, say)
    finally:
        os.umask(old)


def _build(options: BuildOptions, cache: Cache, say: Callable[[str], None]) -> Built:
    compression = squashfs.parse_compression(options.compression)
    extra = options.extras
    extra.check()
    tree_options = replace(options.tree, extra_packages=extra.packages)
    require_tools(list(PACKAGE_OF_TOOL))
    bootloader.check_packages()
    seconds: dict[str, float] = {}
    built: set[str] = set()

    def stage(name: str, key: str, work: Callable[[Path, Path], None]) -> Path:
        started = time.monotonic()

        def fill(result: Path) -> None:
            built.add(name)
            with cache.scratch(name) as scratch:
                work(scratch, result)

        directory = cache.stage(name, key, fill)
        seconds[name] = round(time.monotonic() - started, 2)
        if name in built:
            say(f"{name}: {seconds[name]:.1f} s")
        return directory

    common = digest_of(str(FORMAT), SOURCE_DATE_EPOCH)
    tree_key = _tree_key(tree_options)
    if options.refresh:
        shutil.rmtree(cache.root / f"tree-{tree_key}", ignore_errors=True)
    tree_dir = stage("tree", tree_key, lambda _scratch, result: tree.build_tree(tree_options, result))
    refuse_packages(tree.installed(tree_dir))
    # The archive's own digest: a refreshed tree with other package versions must not find old results.
    system_key = digest_of(
        common,
        tree_dir / tree.MANIFEST,
        tree_key,
        compression.name,
        extra.system_key(),
        _code("system", "modules", "firmware", "squashfs", "cpio", "extras"),
        *(SOURCES / name for name in system.INPUTS),
    )
    system_dir = stage(
        "system", system_key, lambda scratch, result: system.build_system(tree_dir, compression, scratch, result, extra)
    )
    wheels = stage(
        "wheels", digest_of(SOURCES / "requirements.txt"), lambda _scratch, result: layer.download_wheels(result)
    )
    with tempfile.TemporaryDirectory(prefix="coldmig-agent-") as place:
        agent = options.agent
        if agent is None:
            agent = Path(place) / "coldmig-agent"
            layer.make_agent(AGENT_SOURCES, agent)
        layer_key = digest_of(
            common,
            agent,
            compression.name,
            extra.layer_key(),
            _code("layer", "squashfs", "cpio", "extras"),
            *(SOURCES / name for name in layer.INPUTS),
        )
        layer_dir = stage(
            "layer",
            layer_key,
            lambda scratch, result: layer.build_layer(agent, wheels, compression, scratch, result, extra),
        )
    initrd_key = digest_of(common, system_key, SOURCES / "boot/init", _code("initrd", "cpio"))
    initrd_dir = stage("initrd", initrd_key, lambda scratch, result: initrd.build_initrd(system_dir, scratch, result))
    loader_key = digest_of(common, _code("bootloader"), *bootloader.loader_files())
    loader_dir = stage("bootloader", loader_key, lambda _scratch, result: bootloader.build_bootloader(result))
    parts = Parts(tree_dir, system_dir, layer_dir, initrd_dir, loader_dir)
    build_id = digest_of(
        common,
        system_key,
        layer_key,
        initrd_key,
        loader_key,
        _code("__init__", "image"),
        SOURCES / "boot",
        SOURCES / "fence/kernel-args.txt",
    )
    iso_dir = stage("iso", build_id, lambda scratch, result: image.build_image(parts, build_id, scratch, result))
    return Built(
        path=iso_dir / image.ISO,
        volume_id=image.volume_id(build_id),
        seconds=seconds,
        built="iso" in built,
        parts=parts,
        report=(system_dir / system.REPORT).read_text(encoding="utf-8"),
    )


def publish(built: Built, output: Path) -> bool:
    """Put the image at ``output``; False when the same image is there already."""
    if output.exists() and (output.samefile(built.path) or _same_image(output, built.path)):
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.part")
    part.unlink(missing_ok=True)
    try:
        # No hard link: patching the copy by mistake must not reach the cache.
        shutil.copyfile(built.path, part)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return True


def _same_image(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(1 << 20):
            if block != second.read(1 << 20):
                return False
    return True


def _tree_key(options: TreeOptions) -> str:
    origin = options.mirror or tree.host_sources(options) or ""
    return digest_of(options.suite, origin, tree.packages(options), _code("tree"), os.uname().machine)


def _code(*names: str) -> str:
    """Digest of modules of this package: a changed build step is a changed input."""
    return digest_of(*(Path(__file__).with_name(f"{name}.py") for name in names))
