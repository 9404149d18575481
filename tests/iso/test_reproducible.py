# SPDX-License-Identifier: GPL-3.0-or-later
"""The same inputs give the same bytes: stage by stage with small inputs, and the whole image built twice (long)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from coldmig_iso import SOURCES, bootloader, image, initrd, layer, pipeline, squashfs
from coldmig_iso.cache import Cache
from coldmig_iso.image import Parts
from coldmig_iso.pipeline import BuildOptions
from coldmig_iso.run import BuildError


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(params=[0o022, 0o077], ids=["umask-022", "umask-077"])
def umask(request: pytest.FixtureRequest) -> object:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """What the first run of a test found, for the second."""
    return {}


def write_files(root: Path, names: list[str], seconds: float) -> None:
    """A directory with these files, made in this order and with this time."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name * 1000)
        os.utime(path, (seconds, seconds))


NAMES = ["usr/bin/tool", "etc/a", "etc/b", "lib/modules/6.1/x.ko", "lib/modules/6.1/y.ko"]


def same(digests: dict[str, str], name: str, path: Path) -> None:
    assert digest(path) == digests.setdefault(name, digest(path))


def test_squashfs_depends_on_content_alone(tmp_path: Path, digests: dict[str, str], umask: int) -> None:
    compression = squashfs.parse_compression("zstd-3")
    for number, order in enumerate((NAMES, NAMES[::-1])):
        root = tmp_path / f"tree{number}"
        root.mkdir()
        write_files(root, order, time.time() - 1000 * number)
        layer._normal_modes(root)
        squashfs.make_squashfs(root, tmp_path / f"{number}.squashfs", compression)
        squashfs.wrap(tmp_path / f"{number}.squashfs", tmp_path / f"{number}.cpio", "x")
        same(digests, "squashfs", tmp_path / f"{number}.cpio")


def test_layer_is_the_same_from_any_checkout(tmp_path: Path, digests: dict[str, str], umask: int) -> None:
    agent, wheels = tmp_path / "agent", tmp_path / "wheels"
    agent.write_text("#!/usr/bin/env python3\n")
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "one-1.whl", "w") as wheel:
        wheel.writestr(zipfile.ZipInfo("one/__init__.py"), "")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "result").mkdir()
    layer.build_layer(agent, wheels, squashfs.parse_compression("zstd-3"), tmp_path / "scratch", tmp_path / "result")
    same(digests, "layer", tmp_path / "result" / layer.LAYER)


def test_agent_is_the_same_from_any_checkout(tmp_path: Path, digests: dict[str, str], umask: int) -> None:
    layer.make_agent(SOURCES.parent / "agent", tmp_path / "agent")
    same(digests, "agent", tmp_path / "agent")


def test_initrd_and_image_are_the_same(tmp_path: Path, digests: dict[str, str], umask: int) -> None:
    try:
        bootloader.check_packages()
    except BuildError as error:
        pytest.skip(str(error))
    parts = Parts(*(tmp_path / name for name in ("tree", "system", "layer", "initrd", "bootloader")))
    for directory in (parts.tree, parts.system, parts.layer, parts.initrd, parts.bootloader, tmp_path / "scratch"):
        directory.mkdir()
    write_files(parts.tree, ["packages.tsv"], time.time())
    write_files(parts.layer, ["layer.cpio"], time.time())
    write_files(parts.system, ["system.cpio", "vmlinuz", "busybox", "initrd-modules/usr/lib/modules/6.1/x.ko"], 0)
    initrd.build_initrd(parts.system, tmp_path / "scratch", parts.initrd)
    same(digests, "initrd", parts.initrd / initrd.INITRD)
    assert (parts.initrd / initrd.INITRD).stat().st_size % 4 == 0
    bootloader.build_bootloader(parts.bootloader)
    same(digests, "efi", parts.bootloader / bootloader.EFI_IMAGE)
    (tmp_path / "result").mkdir()
    image.build_image(parts, "ab" * 16, tmp_path / "scratch", tmp_path / "result")
    same(digests, "iso", tmp_path / "result" / image.ISO)


def test_build_does_not_depend_on_the_callers_umask(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stop(*_: object) -> None:
        seen.append(os.umask(0o022))

    monkeypatch.setattr(pipeline, "_build", stop)
    pipeline.build(BuildOptions(), Cache(tmp_path), print)
    assert seen == [0o022]
    assert os.umask(umask) == umask


@pytest.mark.slow
@pytest.mark.long
def test_two_builds_of_the_whole_image_have_one_digest(tmp_path: Path) -> None:
    """Each with a cache of its own, so that nothing is taken from another build, and files of its own are private."""
    found = set()
    for name, umask in (("one", 0o022), ("two", 0o077)):
        output = tmp_path / f"{name}.iso"
        command = [sys.executable, str(SOURCES), "build", "--compression", "zstd-3", "--output", str(output)]
        subprocess.run(command, env={**os.environ, "COLDMIG_CACHE": str(tmp_path / name)}, umask=umask, check=True)
        found.add(digest(output))
    assert len(found) == 1
