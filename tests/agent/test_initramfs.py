# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as initramfs-tools, dracut and others put them together, made with cpio and the real compressors."""

from __future__ import annotations

import io
import random
import subprocess
from pathlib import Path

import pytest
from agent_lab import need, run, write_tree

from coldmig_agent.guest import initramfs
from coldmig_agent.guest.initramfs import Listing, read_image

DRIVERS = [
    "usr/lib/modules/6.1/kernel/drivers/scsi/vmw_pvscsi.ko",
    "usr/lib/modules/6.1/kernel/drivers/nvme/host/nvme.ko",
]


def cpio(root: Path, names: list[str]) -> bytes:
    """A newc archive of files with some content."""
    need("cpio")
    chance = random.Random(len(names))
    write_tree(root, {name: chance.randbytes(3001) for name in names})
    done = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input="\n".join(names).encode(),
        cwd=root,
        capture_output=True,
        check=True,
    )
    return done.stdout


def listed(data: bytes) -> tuple[Listing, set[str]]:
    names: set[str] = set()
    return read_image(io.BytesIO(data), lambda name, _content: names.add(name)), names


@pytest.fixture
def early(tmp_path: Path) -> bytes:
    return cpio(tmp_path / "early", ["kernel/x86/microcode/GenuineIntel.bin"])


@pytest.fixture
def main(tmp_path: Path) -> bytes:
    return cpio(tmp_path / "main", ["init", *DRIVERS, *(f"usr/share/file{n}" for n in range(200))])


COMPRESSORS = {
    "gzip": ["gzip", "-c"],
    "xz": ["xz", "-c", "--check=crc32"],
    "bzip2": ["bzip2", "-c"],
    "lzma": ["xz", "-c", "--format=lzma"],
    "zstd": ["zstd", "-qc"],
    "lz4": ["lz4", "-qcl"],
    "lzop": ["lzop", "-c"],
    "none": ["cat"],
}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("with_early", [False, True], ids=["alone", "after microcode"])
def test_names_are_listed_from_every_compression(name: str, with_early: bool, early: bytes, main: bytes) -> None:
    need(COMPRESSORS[name][0])
    packed = run(*COMPRESSORS[name], stdin=main)
    listing, names = listed((early + bytes(512) if with_early else b"") + packed)
    assert listing.problem == ""
    assert listing.complete
    assert names >= set(DRIVERS)
    assert ("kernel/x86/microcode/GenuineIntel.bin" in names) == with_early
    assert listing.entries == len(names)


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_several_compressed_members_are_all_read(name: str, early: bytes, main: bytes) -> None:
    first, second = (run(*COMPRESSORS[name], stdin=data) for data in (early, main))
    listing, names = listed(first + second + bytes(1024))
    assert listing.complete
    assert names >= {"kernel/x86/microcode/GenuineIntel.bin", *DRIVERS}


def test_an_archive_after_a_zstd_member_is_read(early: bytes, main: bytes) -> None:
    need("zstd")
    listing, names = listed(run(*COMPRESSORS["zstd"], stdin=main) + early)
    assert listing.complete
    assert "kernel/x86/microcode/GenuineIntel.bin" in names


@pytest.mark.parametrize("name", ["gzip", "xz", "bzip2", "zstd", "none"])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_a_truncated_image_is_incomplete(name: str, part: float, main: bytes) -> None:
    need(COMPRESSORS[name][0])
    packed = run(*COMPRESSORS[name], stdin=main)
    listing, _ = listed(packed[: int(len(packed) * part)])
    assert not listing.complete
    assert listing.problem


def test_damage_in_the_compressed_data_is_incomplete(main: bytes) -> None:
    packed = bytearray(run(*COMPRESSORS["gzip"], stdin=main))
    packed[len(packed) // 2] ^= 0xFF
    assert not listed(bytes(packed))[0].complete


@pytest.mark.parametrize("data", [b"", bytes(4096), b"MZ" + bytes(500), b"070701" + b"g" * 104, b"070701" + b"f" * 104])
def test_what_is_no_image_is_incomplete(data: bytes) -> None:
    listing, names = listed(data)
    assert not listing.complete
    assert names == set()


def test_a_bomb_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(initramfs, "MAX_OUTPUT", 8 << 20)
    need("cpio")
    (tmp_path / "big").write_bytes(bytes(32 << 20))
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=b"big", cwd=tmp_path, capture_output=True, check=True
    ).stdout
    for name in ("gzip", "xz", "zstd"):
        need(COMPRESSORS[name][0])
        listing, _ = listed(run(*COMPRESSORS[name], stdin=archive))
        assert "decompressed" in listing.problem


def test_compression_in_compression_in_compression_is_refused(main: bytes) -> None:
    packed = main
    for _ in range(3):
        packed = run("gzip", "-c", stdin=packed)
    assert "more than twice" in listed(packed)[0].problem


def test_a_missing_decompressor_is_named(monkeypatch: pytest.MonkeyPatch, main: bytes) -> None:
    need("zstd")
    packed = run(*COMPRESSORS["zstd"], stdin=main)
    monkeypatch.setenv("PATH", "/nowhere")
    assert "zstd is not installed" in listed(packed)[0].problem


def test_noise_behind_a_magic_number_neither_fails_nor_hangs(main: bytes) -> None:
    chance = random.Random(4)
    for magic in (b"070701", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"BZh9", b"\x5d\0\0", b"\x28\xb5\x2f\xfd"):
        for _ in range(5):
            assert not listed(magic + chance.randbytes(5000))[0].complete


def test_only_the_files_that_are_asked_for_are_kept(tmp_path: Path, early: bytes) -> None:
    archive = cpio(tmp_path / "kept", ["etc/hostname", "etc/other"])
    packed = run("gzip", "-c", stdin=archive)
    seen: dict[str, bytes] = {}
    listing = read_image(io.BytesIO(early + packed), seen.__setitem__, lambda name: name == "etc/hostname")
    assert listing.complete
    assert seen["etc/hostname"] == (tmp_path / "kept/etc/hostname").read_bytes()
    assert (seen["etc/other"], seen["kernel/x86/microcode/GenuineIntel.bin"]) == (b"", b"")


def test_a_file_that_is_too_big_to_keep_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "MAX_KEPT", 100)
    seen: dict[str, bytes] = {}
    archive = cpio(tmp_path / "big", ["etc/hostname", "init"])
    assert read_image(io.BytesIO(archive), seen.__setitem__, lambda _name: True).complete
    assert seen == {"etc/hostname": b"", "init": b""}
