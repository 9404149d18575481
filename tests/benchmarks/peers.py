# SPDX-License-Identifier: GPL-3.0-or-later
"""What else copies a disk over a network in secret: each until what it wrote is flushed to the site's disk.

Their servers run before the clock does. ``nbdcopy`` and ``qemu-img`` speak NBD over TLS with nbdkit's file plugin;
``dd`` and ``partclone`` go through ``zstd`` and ``ssh`` with the cheapest cipher that it has. The level of zstd is the
better one for the link: 1, and 3 at 100 Mbit/s.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.disks import MIB, Disk, difference, run
from tests.benchmarks.meter import Measured, PeakMemory, cpu_of, cpu_of_ended_children, tree
from tests.benchmarks.network import Ends
from tests.support.processes import free_port

#: Where Debian has the programs.
PACKAGES = {
    "nbdkit": "nbdkit",
    "nbdcopy": "libnbd-bin",
    "qemu-img": "qemu-utils",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "zstd": "zstd",
    "partclone.restore": "partclone",
}
_PATIENCE_SECONDS = 600.0


def which(program: str) -> str | None:
    """The program's path, also where only root looks."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Peer(ABC):
    """One tool: ``prepare`` what takes no part in the measurement, then ``copy``."""

    name: str
    programs: Sequence[str]

    def __init__(self, ends: Ends, directory: Path, level: int) -> None:
        self.ends = ends
        self.directory = directory
        self.level = level

    @property
    def missing(self) -> Sequence[str]:
        """The packages that would have to be installed."""
        return [PACKAGES[program] for program in self.programs if which(program) is None]

    def takes(self, disk: Disk) -> bool:
        """Whether the tool can copy such a disk at all."""
        return True

    @abstractmethod
    @contextmanager
    def server(self, target: Path) -> Iterator[tuple[int, int]]:
        """The site's side, ready: (process id, port)."""

    @abstractmethod
    def client(self, disk: Disk, target: Path, port: int) -> str:
        """The shell command of the source's side."""

    def copy(self, disk: Disk) -> Measured:
        """Copy a disk and verify what arrived. Raises RuntimeError."""
        target = self.directory / "target.raw"
        with target.open("wb") as file:
            file.truncate(disk.size)
        disk.forget()
        try:
            with ExitStack() as stack:
                source = stack.enter_context(self.source(disk))
                pid, port = stack.enter_context(self.server(target))
                measured = self._measure(self.client(source, target, port), pid)
            self.verify(disk, target)
        finally:
            target.unlink()
        return measured

    @contextmanager
    def source(self, disk: Disk) -> Iterator[Disk]:
        """The disk as the tool wants it."""
        yield disk

    def verify(self, disk: Disk, target: Path) -> None:
        """Compare what arrived."""
        wrong = difference(disk, target)
        if wrong is not None:
            raise RuntimeError(f"{self.name}, {disk.name}: {wrong}")

    def _measure(self, command: str, server: int) -> Measured:
        log = self.directory / "client.log"
        before, site, wire = cpu_of_ended_children(), cpu_of(server), self.ends.wire_bytes()
        begun = time.monotonic()
        with log.open("wb") as output:
            client = subprocess.Popen(
                [*self.ends.prefix, "bash", "-o", "pipefail", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        with PeakMemory({"source": client.pid, "site": server}) as memory:
            status = client.wait(_PATIENCE_SECONDS)
            wall = time.monotonic() - begun
            # What served this connection alone has to be waited for by the server before its time counts.
            while len(list(tree(server))) > 1 and time.monotonic() < begun + _PATIENCE_SECONDS:
                time.sleep(0.01)
        if status != 0:
            raise RuntimeError(f"{self.name} ended with status {status}:\n{log.read_text(errors='replace')[-3000:]}")
        source, site = cpu_of_ended_children() - before, cpu_of(server) - site
        wire = self.ends.wire_bytes() - wire
        return Measured(wall, source, site, wire, memory.peaks["source"], memory.peaks["site"])


class _Nbd(Peer):
    """NBD with TLS to ``nbdkit file``."""

    @contextmanager
    def server(self, target: Path) -> Iterator[tuple[int, int]]:
        keys = self.directory / "psk"
        keys.mkdir(exist_ok=True)
        (keys / "keys.psk").write_text(f"bench:{os.urandom(32).hex()}\n")
        port, pid_file = free_port(self.ends.address), self.directory / "nbdkit.pid"
        pid_file.unlink(missing_ok=True)
        where = ["--ipaddr", self.ends.address, "--port", str(port), "--pidfile", str(pid_file)]
        secret = ["--tls=require", f"--tls-psk={keys / 'keys.psk'}"]
        server = subprocess.Popen(["nbdkit", "--foreground", *where, *secret, "file", str(target)])
        try:
            _wait_for(pid_file, server)
            yield server.pid, port
        finally:
            server.terminate()
            server.wait()


class Nbdcopy(_Nbd):
    """libnbd's own."""

    name = "nbdcopy over TLS"
    programs = ("nbdcopy", "nbdkit")

    def client(self, disk: Disk, target: Path, port: int) -> str:
        uri = f"nbds://bench@{self.ends.address}:{port}/?tls-psk-file={self.directory}/psk/keys.psk"
        return f"exec nbdcopy --flush --destination-is-zero {disk.image} {shlex.quote(uri)}"


class QemuImg(_Nbd):
    """qemu-img convert with eight requests at a time."""

    name = "qemu-img convert over TLS"
    programs = ("qemu-img", "nbdkit")

    def client(self, disk: Disk, target: Path, port: int) -> str:
        secret = f"tls-creds-psk,id=tls,endpoint=client,dir={self.directory}/psk,username=bench"
        to = f"driver=nbd,host={self.ends.address},port={port},tls-creds=tls"
        options = f"-n --target-is-zero -W -m 8 -t writeback -f raw --object {secret} --target-image-opts"
        return f"exec qemu-img convert {options} {disk.image} {to}"


class _Ssh(Peer):
    """A pipe through ssh, to a sshd of the benchmark's own with keys of its own."""

    @contextmanager
    def server(self, target: Path) -> Iterator[tuple[int, int]]:
        place = self.directory / "ssh"
        if not place.exists():
            place.mkdir(mode=0o700)
            for name in ("host", "user"):
                run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name)
        port, pid_file = free_port(self.ends.address), place / "pid"
        (place / "known").write_text(f"[{self.ends.address}]:{port} {(place / 'host.pub').read_text()}")
        settings = {
            "ListenAddress": f"{self.ends.address}:{port}",
            "HostKey": place / "host",
            "AuthorizedKeysFile": place / "user.pub",
            "PidFile": pid_file,
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "Ciphers": "aes128-gcm@openssh.com",
        }
        config = place / "sshd_config"
        config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, empty
        pid_file.unlink(missing_ok=True)
        server = subprocess.Popen([str(which("sshd")), "-D", "-q", "-f", str(config)])
        try:
            _wait_for(pid_file, server)
            yield server.pid, port
        finally:
            server.terminate()
            server.wait()

    def remote(self, port: int, command: str) -> str:
        """The end of the source's pipe: what reaches it goes to a command at the site."""
        place = self.directory / "ssh"
        options = f"-F none -i {place}/user -o UserKnownHostsFile={place}/known -o StrictHostKeyChecking=yes -p {port}"
        return f"ssh {options} -o BatchMode=yes root@{self.ends.address} {shlex.quote(command)}"

    @property
    def compress(self) -> str:
        """zstd with as many threads as there are processors."""
        return f"zstd -q -T0 -{self.level}"


class Dd(_Ssh):
    """dd | zstd | ssh 'zstd -d | dd'."""

    name = "dd | zstd | ssh"
    programs = ("zstd", "ssh", "sshd")

    def client(self, disk: Disk, target: Path, port: int) -> str:
        write = f"zstd -dqc | dd of={target} bs=1M iflag=fullblock conv=sparse,notrunc,fsync status=none"
        return f"dd if={disk.image} bs=1M status=none | {self.compress} | {self.remote(port, write)}"


class Partclone(_Ssh):
    """partclone | zstd | ssh 'zstd -d | partclone.restore': the partition alone, without what lies around it."""

    name = "partclone | zstd | ssh"
    programs = ("partclone.restore", "zstd", "ssh", "sshd")

    def takes(self, disk: Disk) -> bool:
        return disk.fstype is not None

    @contextmanager
    def source(self, disk: Disk) -> Iterator[Disk]:
        # It wants a block device of the partition.
        assert disk.partition is not None
        offset, size = disk.partition
        range_ = ["--offset", str(offset), "--sizelimit", str(size)]
        device = run("losetup", "--find", "--show", "--read-only", *range_, disk.image).strip()
        try:
            yield Disk(disk.name, Path(device), disk.fstype, disk.partition)
        finally:
            run("losetup", "--detach", device)

    def client(self, disk: Disk, target: Path, port: int) -> str:
        write = f"zstd -dqc | partclone.restore -q -C -L /dev/null -E {MIB} -s - -O {target} && sync {target}"
        read = f"partclone.{disk.fstype} -q -c -L /dev/null -s {disk.image} -o -"
        return f"{read} | {self.compress} | {self.remote(port, write)}"

    def verify(self, disk: Disk, target: Path) -> None:
        # What it does not copy by its nature: what lies outside of the partition, and NTFS's last sector in it.
        assert disk.partition is not None
        offset, size = disk.partition
        size -= 4096 if disk.fstype == "ntfs" else 0
        with disk.image.open("rb") as source, target.open("r+b") as file:
            file.write(source.read(offset))
            source.seek(offset + size)
            file.seek(offset + size)
            file.write(source.read())
        super().verify(disk, target)


PEERS: tuple[type[Peer], ...] = (Nbdcopy, QemuImg, Dd, Partclone)


def _wait_for(path: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.stat().st_size:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{server.args!r} does not start")
        time.sleep(0.02)
