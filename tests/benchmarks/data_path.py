#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the way of a disk costs in processor time, against what else there is.

Two kinds of content, 256 MiB each: files of this machine's /usr ("files") and random bytes ("random"). Measured in
core-seconds for each GiB of disk, user and system time of all processes together, so that neither the number of cores
nor other load decides:

- ours: read, digest, encode, send over TLS | receive, inflate, check, append, fdatasync, re-read and check all |
  image (make the streamOptimized VMDK from staging, checked once more, send it over TLS and receive it);
- qemu-img convert -O vmdk -o subformat=streamOptimized: the same image made locally, no network, nothing checked;
- zlib level 6 on the same 64 KiB grains, in this interpreter: the compression alone.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(_ROOT / part) for part in ("gateway/src", "tests")]

from coldmig_wire.digest import chunk_digest  # noqa: E402
from coldmig_wire.frames import CHUNK, GRAIN, Codec, Frame, FrameType  # noqa: E402
from coldmig_wire.geometry import chunk_count  # noqa: E402
from coldmig_wire.grains import encode_chunk, is_zero  # noqa: E402
from gateway.dataplane.front import Client, start_server_process, write_certificate  # noqa: E402
from gateway.dataplane.memory_site import PROVIDER  # noqa: E402

_ID = "11111111-2222-4333-8444-555555555555"
_BATCH = 32 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Core-seconds per GiB, and stored bytes per byte of disk."""

    sender: float
    receiver: float
    image: float
    qemu: float
    zlib6: float
    ratio: float
    qemu_ratio: float

    @property
    def ours(self) -> float:
        """Everything from the source's disk to the image in the receiver's hands."""
        return self.sender + self.receiver + self.image


def write_files(path: Path, size: int) -> None:
    """Concatenates regular files below /usr/lib, in the order of their names, up to ``size`` bytes."""
    with path.open("wb") as out:
        for file in sorted(Path("/usr/lib").rglob("*")):
            if file.is_file() and not file.is_symlink():
                out.write(file.read_bytes()[: size - out.tell()])
            if out.tell() >= size:
                break
        out.truncate(size)


def write_random(path: Path, size: int) -> None:
    """Bytes that no compressor shrinks."""
    source = random.Random(1)
    with path.open("wb") as out:
        for _ in range(size // CHUNK):
            out.write(source.randbytes(CHUNK))


def cpu_of(pid: int) -> float:
    """User and system seconds that a running process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def bodies(path: Path) -> Iterator[bytes]:
    """The disk as request bodies, as an agent makes them."""
    parts: list[bytes] = []
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as disk:
        for chunk in range(chunk_count(path.stat().st_size)):
            disk.readinto(buffer)
            if is_zero(buffer):
                parts.append(Frame(FrameType.ZERO_RUN, Codec.RAW, 0, chunk, 1, 0, bytes(32)).pack())
                continue
            payload = encode_chunk(buffer)
            frame = Frame(FrameType.DATA, Codec.GRAINS, 0, chunk, CHUNK, len(payload), chunk_digest(buffer))
            parts += [frame.pack(), payload]
            if sum(map(len, parts)) >= _BATCH:
                yield b"".join(parts)
                parts.clear()
    yield b"".join(parts)


def measure(disk: Path, directory: Path) -> Cost:
    """Sends the disk to a front of its own, fetches the image, and lets the others do their part."""
    size = disk.stat().st_size
    gib = size / (1 << 30)
    write_certificate(directory)
    server, client = start_server_process(directory, _ID, size)
    try:
        begun, server_begun = time.process_time(), cpu_of(server.pid)
        connection = client.connect()
        for body in bodies(disk):
            answer = client.send_bytes(body, connection=connection)
            if answer.status != 200 or answer.json["rejected"]:
                raise RuntimeError(f"the front answered {answer.status}: {answer.body!r}")
        sender = time.process_time() - begun
        provider = Client(client.port, directory / "server.pem", PROVIDER)
        path = f"/data/v1/migrations/{_ID}/disks/0/image.vmdk"
        while (head := provider.request("HEAD", path, connection=connection)).status == 409:
            time.sleep(0.2)
        verified, asked = cpu_of(server.pid), time.process_time()
        length = int(head.headers["content-length"])
        received = receive(provider, path)
        connection.close()
        if received != length:
            raise RuntimeError(f"the image has {received} bytes, {length} were promised")
        image = cpu_of(server.pid) - verified + time.process_time() - asked
    finally:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    made = directory / "qemu.vmdk"
    qemu = qemu_convert(disk, made)
    return Cost(
        sender / gib, (verified - server_begun) / gib, image / gib, qemu / gib, zlib6(disk) / gib,
        received / size, made.stat().st_size / size,
    )  # fmt: skip


def receive(client: Client, path: str) -> int:
    """Takes an image in pieces, as the module that passes it on to vCenter does; its length."""
    connection = client.connect()
    connection.request("GET", path, headers={"Authorization": f"Bearer {client.token}"})
    response = connection.getresponse()
    buffer = memoryview(bytearray(1 << 20))
    received = 0
    while size := response.readinto(buffer):
        received += size
    connection.close()
    return received


def qemu_convert(disk: Path, image: Path) -> float:
    """Core-seconds of qemu-img making the image of the whole disk."""
    command: list[str | Path] = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
    before = os.times()
    subprocess.run([*command, disk, image], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def zlib6(disk: Path) -> float:
    """Core-seconds of zlib at qemu-img's level, on all grains that are not zeros."""
    begun = time.process_time()
    with disk.open("rb", buffering=0) as source:
        while grain := source.read(GRAIN):
            if not is_zero(grain):
                zlib.compress(grain, 6)
    return time.process_time() - begun


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=256, help="size of each disk (default 256)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, the cheapest counts (default 3)")
    options = parser.parse_args()
    print("core-seconds per GiB of disk       send  receive+verify  image  = ours |  qemu-img   zlib-6 | qemu-img/ours")
    for name, write in (("files", write_files), ("random", write_random)):
        with tempfile.TemporaryDirectory(prefix="coldmig-benchmark-") as place:
            disk = Path(place) / "disk.raw"
            write(disk, options.size_mib << 20)
            costs = []
            for run in range(options.runs):
                directory = Path(place) / str(run)
                directory.mkdir()
                costs.append(measure(disk, directory))
            best = min(costs, key=lambda cost: cost.ours)
            qemu, zlib_6 = min(cost.qemu for cost in costs), min(cost.zlib6 for cost in costs)
            ratio = qemu / best.ours
            print(
                f"{name:8} image {best.ratio:5.3f} (qemu {best.qemu_ratio:5.3f}) {best.sender:8.2f}"
                f" {best.receiver:15.2f} {best.image:6.2f} {best.ours:7.2f} | {qemu:9.2f} {zlib_6:8.2f} | {ratio:8.1f}x"
            )


if __name__ == "__main__":
    main()
