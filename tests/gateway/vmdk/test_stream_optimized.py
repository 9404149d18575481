# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from coldmig_gateway.vmdk.stream_optimized import (
    PIECE_BYTES,
    SECTOR,
    ImageChunk,
    ImageTooLargeError,
    capacity,
    chunk_sectors,
    image_length,
    write_image,
)
from coldmig_wire.frames import CHUNK, GRAIN, Codec
from coldmig_wire.grains import encode_chunk
from coldmig_wire.payload import payload_grains

MiB = 1 << 20


def make_image(raw: bytes, codec: Codec = Codec.GRAINS, *, skip_zero_chunks: bool = True) -> bytes:
    """The image of a disk, and the check that its length was known before."""
    chunks, sizes = [], []
    for start in range(0, len(raw), CHUNK):
        piece = raw[start : start + CHUNK]
        if skip_zero_chunks and not any(piece):
            continue
        payload = encode_chunk(piece) if codec is Codec.GRAINS else piece
        grains = list(payload_grains(codec, payload, len(piece)))
        chunks.append(ImageChunk(start // CHUNK, grains))
        sizes.append((start // CHUNK, chunk_sectors(grains)))
    image = b"".join(write_image(len(raw), chunks, name="disk-0.vmdk", content_id=0x1234ABCD))
    assert len(image) == image_length(len(raw), sizes)
    assert one_behind(raw, chunks) == image
    return image


def one_behind(raw: bytes, chunks: list[ImageChunk]) -> bytes:
    """The same by a reader that takes a piece after the next one was made, from buffers that take turns."""
    buffers = [bytearray(PIECE_BYTES) for _ in range(2)]
    pieces = write_image(len(raw), chunks, name="disk-0.vmdk", content_id=0x1234ABCD, buffers=buffers)
    image, held = b"", next(pieces)
    for piece in pieces:
        image += held
        held = piece
    return image + held


def assert_qemu_reads(image: bytes, raw: bytes, directory: Path) -> None:
    """qemu-img finds no errors and the same content, filled up with zeros to whole MiB."""
    vmdk, plain = directory / "image.vmdk", directory / "plain.raw"
    vmdk.write_bytes(image)
    plain.write_bytes(raw)
    with plain.open("r+b") as file:
        file.truncate(capacity(len(raw)))
    subprocess.run(["qemu-img", "check", "-f", "vmdk", vmdk], check=True, capture_output=True)
    compared: list[str | Path] = ["qemu-img", "compare", "-f", "vmdk", "-F", "raw", vmdk, plain]
    result = subprocess.run(compared, check=False, capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("Images are identical.\n", 0), result.stderr


def text(seed: int, size: int) -> bytes:
    words = random.Random(seed).choices([b"alpha ", b"beta ", b"gamma ", b"delta\n"], k=size // 4)
    return b"".join(words).ljust(size, b".")[:size]


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


CONTENT: dict[str, Callable[[], bytes]] = {
    "one sector": lambda: noise(1, 512),
    "one byte": lambda: b"\x01",
    "one grain": lambda: text(1, GRAIN),
    "a grain and a sector": lambda: text(1, GRAIN + 512),
    "odd end in compressible data": lambda: text(2, 3 * MiB + 512 * 77),
    "odd end in random data": lambda: noise(2, 2 * MiB + 512 * 129),
    "all zeros": lambda: bytes(5 * MiB),
    "zeros then data": lambda: bytes(4 * MiB) + text(3, MiB),
    "holes of one grain": lambda: b"".join(noise(n, GRAIN) + bytes(GRAIN) + text(n, GRAIN) for n in range(20)),
    "several tables": lambda: b"".join(noise(n, 300_000).ljust(MiB, b"\0") for n in range(70)),
    "empty table between": lambda: noise(5, MiB) + bytes(95 * MiB) + noise(6, MiB),
    "empty first and last table": lambda: bytes(40 * MiB) + noise(7, MiB) + bytes(40 * MiB),
}


@pytest.mark.parametrize("name", CONTENT)
def test_qemu_finds_the_image_sound_and_equal_to_the_disk(name: str, tmp_path: Path) -> None:
    raw = CONTENT[name]()
    assert_qemu_reads(make_image(raw), raw, tmp_path)


@pytest.mark.parametrize("name", ["one sector", "holes of one grain", "odd end in random data"])
def test_chunks_that_were_sent_plain_make_a_sound_image_too(name: str, tmp_path: Path) -> None:
    raw = CONTENT[name]()
    assert_qemu_reads(make_image(raw, Codec.RAW), raw, tmp_path)


def test_data_chunks_that_hold_only_zeros_take_no_room() -> None:
    raw = noise(1, MiB) + bytes(3 * MiB)
    assert make_image(raw, skip_zero_chunks=False) == make_image(raw)


def test_a_converted_image_has_the_source_s_bytes(tmp_path: Path) -> None:
    raw = text(9, 2 * MiB) + noise(9, MiB)
    vmdk, back = tmp_path / "image.vmdk", tmp_path / "back.raw"
    vmdk.write_bytes(make_image(raw))
    command: list[str | Path] = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", vmdk, back]
    subprocess.run(command, check=True, capture_output=True)
    assert back.read_bytes() == raw


def test_the_same_disk_gives_the_same_bytes() -> None:
    raw = text(4, 2 * MiB)
    assert make_image(raw) == make_image(raw)


def test_the_container_is_laid_out_as_vmware_wants_it() -> None:
    image = make_image(noise(1, MiB) + bytes(MiB) + text(1, 40 * MiB))
    header, footer = image[:SECTOR], image[-1024:-512]
    assert header[:8] == b"KDMV\x03\0\0\0"
    assert header[8:12] == (0x30001).to_bytes(4, "little")
    assert header[56:64] == b"\xff" * 8
    assert header[73:79] == b"\n \r\n\x01\x00"
    assert footer[:56] == header[:56]
    directory = int.from_bytes(footer[56:64], "little")
    assert image[(directory - 1) * SECTOR :][:16] == (1).to_bytes(8, "little") + bytes(4) + (2).to_bytes(4, "little")
    assert image[-512:] == bytes(512)
    assert b'createType="streamOptimized"' in image[512:2048]
    lbas, position = [], 128
    while position < directory - 1:
        lba, size = int.from_bytes(image[position * SECTOR :][:8], "little"), image[position * SECTOR + 8 :][:4]
        length = int.from_bytes(size, "little")
        if length == 0:
            assert image[position * SECTOR + 12] == 1
            position += 1 + lba
        else:
            lbas.append(lba)
            position += -(-(12 + length) // SECTOR)
    assert lbas == sorted(lbas)
    assert len(lbas) == 16 + 40 * 16


def test_the_length_of_a_sparse_16_tib_image_is_small_and_known_without_reading_it() -> None:
    size = 16 << 40
    assert image_length(size, [(5, 3), (16 * MiB - 1, 7)]) < 3 * MiB


def test_an_image_beyond_2_tib_is_refused_before_anything_is_sent() -> None:
    sectors = (1 << 32) // 1024
    with pytest.raises(ImageTooLargeError, match="2199023255552"):
        image_length(16 << 40, ((chunk * 32, sectors) for chunk in range(1024)))
