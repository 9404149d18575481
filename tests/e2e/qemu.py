# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs machines in QEMU for the tests: firmware, CD, disks and NICs as wanted, serial console in a file, QMP.

KVM is used only where it was seen to boot a guest from its firmware (`/dev/kvm` may exist and still not do that);
otherwise QEMU's own translator (TCG) runs the machine, several times slower, and time limits are scaled for it.
Machines get user-mode networking only; the host is 10.0.2.2 for them.

Debian's OVMF has no driver for VMware's paravirtual and LSI controllers, which VMware's own firmware has. There the
firmware (and GRUB, which reads through it) is shown the same first disk, read-only, as a USB stick; that is pulled as
soon as the kernel speaks, long before it looks for USB. So the disk's own ESP, boot loader and kernel are what boots,
and the operating system finds nothing but the machine's real controller.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

QEMU = "qemu-system-x86_64"
OVMF = Path("/usr/share/OVMF")
# How much longer things take without KVM: generous, because a limit is there to end a hang, not to measure.
TCG_SCALE = 8.0
# Programs choose wide vector instructions where the CPU has them, and those are what TCG translates worst: compression
# and encryption run two to four times faster on this plain CPU than on "max".
TCG_CPU = "qemu64"
PROBE_SECONDS = 20.0
KERNEL_SPEAKS = re.compile(r"^\[ +0\.000000\] Linux version ", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78cDM]|\x1b\][^\x07]*\x07|\r")


class MachineError(RuntimeError):
    """A machine could not be started, died, or did not say in time what it should have said."""


class Accelerator(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class Controller(StrEnum):
    """Disk controllers; where VMware has the same hardware, QEMU's twin of it (LSI parallel has none)."""

    PVSCSI = "pvscsi"
    LSI_SAS = "lsilogic-sas"
    AHCI = "ahci"
    NVME = "nvme"
    IDE = "ide"
    VIRTIO_SCSI = "virtio-scsi"
    VIRTIO_BLK = "virtio-blk"


class MediumAs(StrEnum):
    """How the ISO is presented: as an optical drive, a USB stick, or a USB optical drive (virtual media of a BMC)."""

    CD = "cd"
    USB_STICK = "usb-stick"
    USB_CD = "usb-cd"


def _boot_sector() -> bytes:
    """Writes 0x31 to QEMU's isa-debug-exit port 0xf4 (QEMU then ends with status 0x31 * 2 + 1) and halts."""
    code = bytes([0xB0, 0x31, 0xE6, 0xF4, 0xF4, 0xEB, 0xFD])
    return code.ljust(510, b"\0") + b"\x55\xaa"


def bios_boots(accel: Accelerator, cpu: str, seconds: float) -> bool:
    """True if a machine gets through SeaBIOS and executes a boot sector within the bound."""
    with tempfile.TemporaryDirectory(prefix="probe-") as directory:
        disk = Path(directory) / "disk.raw"
        disk.write_bytes(_boot_sector().ljust(1 << 20, b"\0"))
        argv = [
            QEMU, "-accel", accel, "-cpu", cpu, "-machine", "pc", "-m", "64", "-display", "none", "-nodefaults",
            "-no-reboot", "-drive", f"file={disk},format=raw,if=ide",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip
        try:
            done = subprocess.run(argv, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0x31 * 2 + 1


def uefi_boots(accel: Accelerator, cpu: str, seconds: float) -> bool:
    """True if a machine gets through OVMF to its boot manager (which finds nothing to boot) within the bound."""
    with tempfile.TemporaryDirectory(prefix="probe-") as directory:
        variables, console, errors = (Path(directory) / name for name in ("vars.fd", "console", "errors"))
        shutil.copyfile(OVMF / "OVMF_VARS_4M.fd", variables)
        argv = [
            QEMU, "-accel", accel, "-cpu", cpu, "-machine", "pc", "-m", "256", "-display", "none", "-nodefaults",
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}",
            "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
            "-serial", f"file:{console}",
        ]  # fmt: skip
        with errors.open("wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and process.poll() is None:
                if console.exists() and b"BdsDxe" in console.read_bytes():
                    return True
                if b"KVM internal error" in errors.read_bytes():
                    return False
                time.sleep(0.1)
            return False
        finally:
            process.kill()
            process.wait()


def kvm_boots(seconds: float = PROBE_SECONDS) -> bool:
    """True if guests under KVM get through both firmwares. Nested KVM may run one and stumble over the other."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    return bios_boots(Accelerator.KVM, "host", seconds) and uefi_boots(Accelerator.KVM, "host", seconds)


@functools.cache
def accelerator() -> Accelerator:
    """The accelerator to use here; COLDMIG_ACCEL=kvm|tcg overrides. Found out once per process."""
    wanted = os.environ.get("COLDMIG_ACCEL")
    if wanted:
        return Accelerator(wanted)
    return Accelerator.KVM if kvm_boots() else Accelerator.TCG


def scaled(seconds: float) -> float:
    """A time limit meant for KVM, made longer where machines are slow (COLDMIG_TIMEOUT_SCALE multiplies it)."""
    factor = float(os.environ.get("COLDMIG_TIMEOUT_SCALE", "1"))
    return seconds * factor * (1.0 if accelerator() is Accelerator.KVM else TCG_SCALE)


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk of a machine. `format` is a QEMU block driver name (raw, vmdk, qcow2)."""

    path: Path
    serial: str
    format: str = "raw"
    read_only: bool = False
    bad_sectors: Sequence[int] = ()
    """512-byte sectors whose reading fails with an I/O error, as on a dying disk."""
    controller: Controller | None = None
    """Another controller than the machine's other disks have."""
    paths: int = 1
    """How many ways lead to it, as in a storage network; more than one only with virtio-scsi."""


@dataclass(frozen=True, slots=True)
class Nic:
    """One NIC; `model` is QEMU's device name (vmxnet3, e1000e, e1000, virtio-net-pci)."""

    model: str
    mac: str
    connected: bool = True


@dataclass(frozen=True, slots=True)
class Smbios:
    manufacturer: str = "Contoso Systems"
    product: str = "PowerBox 320"
    serial: str = "CB320-0042"
    uuid: str = "8f1c6f0a-4c0d-4b43-9a53-2f6f3d1c7d21"


@dataclass(frozen=True, slots=True)
class BlockStats:
    """QEMU's own counters of one drive since the machine was started."""

    reads: int
    read_bytes: int
    writes: int
    written_bytes: int
    unmaps: int
    flushes: int

    @property
    def untouched(self) -> bool:
        """True if nothing was ever written to or discarded on the drive (a flush changes nothing)."""
        return self.writes == 0 and self.written_bytes == 0 and self.unmaps == 0


@dataclass(slots=True)
class Machine:
    """What a machine is made of. `start()` runs it; the result is a context manager that ends it."""

    name: str
    directory: Path
    """For the console log, the firmware's variables and QEMU's error output."""
    firmware: Firmware = Firmware.BIOS
    chipset: str = "pc"
    """QEMU's machine type: pc (i440FX, as in VMware) or q35."""
    secure_boot: bool = False
    memory_mib: int = 768
    sockets: int = 1
    cores_per_socket: int = 2
    controller: Controller = Controller.AHCI
    disks: Sequence[Disk] = ()
    nics: Sequence[Nic] = ()
    medium: Path | None = None
    """ISO to boot from."""
    medium_as: MediumAs = MediumAs.CD
    smbios: Smbios | None = None
    extra: Sequence[str] = field(default_factory=tuple)
    """More QEMU arguments."""

    @property
    def firmware_needs_view(self) -> bool:
        """True if the firmware cannot read the machine's disks by itself (see above)."""
        blind = self.firmware is Firmware.UEFI and self.controller in (Controller.PVSCSI, Controller.LSI_SAS)
        return blind and bool(self.disks) and self.medium is None

    def arguments(self, variables: Path | None) -> list[str]:
        """QEMU's command line without the program, the console's and the QMP channel."""
        kvm = accelerator() is Accelerator.KVM
        machine = self.chipset
        if self.secure_boot:
            if self.firmware is not Firmware.UEFI or self.chipset != "q35":
                raise MachineError("secure boot needs firmware=uefi and chipset=q35")
            machine += ",smm=on"
        argv = [
            "-name", self.name,
            "-accel", "kvm" if kvm else "tcg,thread=multi",
            "-cpu", "host" if kvm else TCG_CPU,
            "-machine", machine,
            "-m", str(self.memory_mib),
            "-smp", f"sockets={self.sockets},cores={self.cores_per_socket},threads=1",
            "-display", "none", "-vga", "std", "-nodefaults",
            "-rtc", "base=utc",
            "-serial", "chardev:console",
        ]  # fmt: skip
        if self.firmware is Firmware.UEFI:
            code = OVMF / ("OVMF_CODE_4M.secboot.fd" if self.secure_boot else "OVMF_CODE_4M.fd")
            argv += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
            argv += ["-drive", f"if=pflash,unit=1,format=raw,file={variables}"]
            if self.secure_boot:
                argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
        if self.smbios:
            s = self.smbios
            fields = {"manufacturer": s.manufacturer, "product": s.product, "serial": s.serial}
            # QEMU's way to write a comma within a value is to double it.
            values = (f"{name}={value.replace(',', ',,')}" for name, value in fields.items())
            argv += ["-smbios", ",".join(["type=1", *values])]
            argv += ["-uuid", s.uuid]
        argv += self._medium_arguments()
        argv += self._disk_arguments()
        argv += self._nic_arguments()
        return [*argv, *self.extra]

    def _medium_arguments(self) -> list[str]:
        if self.medium is None:
            return []
        argv = ["-blockdev", f"driver=raw,node-name=medium,read-only=on,file.driver=file,file.filename={self.medium}"]
        if self.medium_as is MediumAs.CD:
            return [*argv, "-device", "ide-cd,drive=medium,bus=ide.1,bootindex=0,id=medium-drive"]
        argv += ["-device", "qemu-xhci,id=xhci"]
        if self.medium_as is MediumAs.USB_STICK:
            return [*argv, "-device", "usb-storage,bus=xhci.0,drive=medium,bootindex=0,id=medium-drive"]
        return [
            *argv, "-device", "usb-bot,bus=xhci.0,id=bot",
            "-device", "scsi-cd,bus=bot.0,drive=medium,bootindex=0,id=medium-drive",
        ]  # fmt: skip

    def _disk_arguments(self) -> list[str]:
        argv: list[str] = []
        used = [disk.controller or self.controller for disk in self.disks]
        for controller in dict.fromkeys(used):
            if controller in _CONTROLLERS:
                argv += ["-device", _CONTROLLERS[controller].replace("id=ctl", f"id={_bus(self, controller)}")]
        for index, disk in enumerate(self.disks):
            argv += ["-blockdev", json.dumps(_block_node(f"disk{index}", disk))]
            common = f"drive=disk{index},bootindex={index + 1},id=disk{index}-device"
            if index == 0 and self.firmware_needs_view:
                common += ",share-rw=on"
            if disk.paths > 1:
                common += f",{_OF_SEVERAL_PATHS}"
            number = used[:index].count(used[index])
            argv += ["-device", _disk_device(used[index], number, disk.serial, _bus(self, used[index])) + "," + common]
            for path in range(1, disk.paths):
                # The same name and content at another place of the bus, above those of single disks.
                device = _disk_device(used[index], 64 * path + number, disk.serial, _bus(self, used[index]))
                argv += ["-device", f"{device},drive=disk{index},id=disk{index}-path{path},{_OF_SEVERAL_PATHS}"]
        if self.firmware_needs_view:
            argv += ["-device", "qemu-xhci,id=xhci"]
            argv += ["-device", "usb-storage,bus=xhci.0,drive=disk0,share-rw=on,bootindex=0,id=firmware-view"]
        return argv

    def _nic_arguments(self) -> list[str]:
        if not self.nics:
            return ["-nic", "none"]
        argv: list[str] = []
        for index, nic in enumerate(self.nics):
            argv += ["-netdev", f"user,id=net{index}"]
            # No option ROM: the machines never boot from the network, and looking costs time.
            argv += ["-device", f"{nic.model},netdev=net{index},mac={nic.mac},id=nic{index},romfile="]
        return argv

    def start(self) -> Running:
        """Starts QEMU. Raises MachineError when it does not come up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        variables: Path | None = None
        if self.firmware is Firmware.UEFI:
            # A fresh copy of the empty variable store: a machine's first boot.
            variables = self.directory / f"{self.name}.vars.fd"
            template = "OVMF_VARS_4M.ms.fd" if self.secure_boot else "OVMF_VARS_4M.fd"
            shutil.copyfile(OVMF / template, variables)
        serial_log = self.directory / f"{self.name}.console.log"
        serial_log.write_bytes(b"")
        return Running(self, self.arguments(variables), serial_log)


_OF_SEVERAL_PATHS = "share-rw=on,wwn=0x5000c50000000900"

_CONTROLLERS = {
    Controller.PVSCSI: "pvscsi,id=ctl",
    # Without an address of its own the emulated 1068 shows no disks to Linux.
    Controller.LSI_SAS: "mptsas1068,id=ctl,sas_address=0x5000c50000000001",
    Controller.AHCI: "ich9-ahci,id=ctl",
    Controller.VIRTIO_SCSI: "virtio-scsi-pci,id=ctl",
}


def _block_node(name: str, disk: Disk) -> dict[str, Any]:
    """QEMU's description of a disk's content."""
    file: dict[str, Any] = {"driver": "file", "filename": str(disk.path)}
    if disk.bad_sectors:
        errors = [
            {"event": "none", "iotype": "read", "errno": errno.EIO, "sector": sector} for sector in disk.bad_sectors
        ]
        file = {"driver": "blkdebug", "image": file, "inject-error": errors}
    return {"driver": disk.format, "node-name": name, "read-only": disk.read_only, "file": file}


def _bus(machine: Machine, controller: Controller) -> str:
    """Name of a controller in QEMU."""
    return "ctl" if controller is machine.controller else f"ctl-{controller}"


def _disk_device(controller: Controller, index: int, serial: str, bus: str = "ctl") -> str:
    match controller:
        case Controller.PVSCSI | Controller.VIRTIO_SCSI:
            return f"scsi-hd,bus={bus}.0,scsi-id={index},serial={serial}"
        case Controller.LSI_SAS:
            return f"scsi-hd,bus={bus}.0,scsi-id={index},serial={serial},wwn={0x5000C50000000100 + index:#x}"
        case Controller.AHCI:
            return f"ide-hd,bus={bus}.{index},serial={serial}"
        case Controller.IDE:
            # The CD has the second channel's first place.
            return f"ide-hd,bus=ide.0,unit={index},serial={serial}"
        case Controller.NVME:
            return f"nvme,serial={serial}"
        case Controller.VIRTIO_BLK:
            return f"virtio-blk-pci,serial={serial}"


class Running:
    """A machine that runs. Leaving the context (or `stop()`) ends it."""

    def __init__(self, machine: Machine, arguments: list[str], console: Path) -> None:
        self.machine = machine
        self.console = console
        self.started = time.monotonic()
        self._firmware_view = machine.firmware_needs_view
        self._errors = (machine.directory / f"{machine.name}.qemu.log").open("wb")
        ours, theirs = socket.socketpair()
        # What the console says goes to the log, connected or not; who has something to type connects.
        self._keyboard = f"\0coldmig-console-{secrets.token_hex(8)}"
        keyboard = socket.socket(socket.AF_UNIX)
        keyboard.bind(self._keyboard)
        keyboard.listen(1)
        log = str(console).replace(",", ",,")
        argv = [
            # QEMU must not outlive a test run that was killed.
            "setpriv", "--pdeathsig", "TERM", QEMU, *arguments,
            "-chardev", f"socket,id=console,fd={keyboard.fileno()},server=on,wait=off,logfile={log},logappend=off",
            "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control",
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), keyboard.fileno()], start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise MachineError(f"{machine.name}: QEMU cannot be started: {error}") from error
        finally:
            theirs.close()
            keyboard.close()
        self._qmp = _Qmp(ours)
        try:
            self._qmp.hello(scaled(10))
        except (OSError, ValueError) as error:
            self.stop()
            raise MachineError(f"{machine.name}: QEMU did not come up: {error}\n{self._error_text()}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def text(self) -> str:
        """Everything the machine has said on its serial console, without escape sequences."""
        return _ESCAPES.sub("", self.console.read_text(encoding="utf-8", errors="replace"))

    def wait_for(
        self,
        pattern: str,
        seconds: float,
        *,
        failure: Iterable[str] = (),
        tick: Callable[[], None] | None = None,
    ) -> re.Match[str]:
        """Waits until the console's text matches; `seconds` is scaled for slow machines.

        `failure` are patterns that end the waiting at once; `tick` is called about once a second.
        Raises MachineError with the console's last lines.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        bad = [re.compile(text, re.MULTILINE) for text in failure]
        deadline = time.monotonic() + scaled(seconds)
        size = -1
        while True:
            now = self.console.stat().st_size
            if now != size:
                size = now
                text = self.text()
                if self._firmware_view and KERNEL_SPEAKS.search(text):
                    self._qmp.execute("device_del", {"id": "firmware-view"})
                    self._firmware_view = False
                found = wanted.search(text)
                if found:
                    return found
                for one in bad:
                    hit = one.search(text)
                    if hit:
                        raise MachineError(self._complaint(f"said {hit.group(0)!r} while {pattern!r} was awaited"))
            if not self.alive:
                raise MachineError(self._complaint(f"ended before it said {pattern!r}\n{self._error_text()}"))
            if time.monotonic() > deadline:
                raise MachineError(self._complaint(f"did not say {pattern!r} within {scaled(seconds):.0f} s"))
            if tick:
                tick()
            time.sleep(0.2 if self._firmware_view else 1)

    def wait_exit(self, seconds: float) -> None:
        """Waits until the guest powered itself off."""
        try:
            self._process.wait(scaled(seconds))
        except subprocess.TimeoutExpired:
            raise MachineError(self._complaint("did not power off")) from None

    def block_stats(self) -> list[BlockStats]:
        """Counters of the machine's disks, in their order. Raises MachineError when QEMU does not know one."""
        answers: list[dict[str, Any]] = self._qmp.execute("query-blockstats")
        result: list[BlockStats] = []
        for index in range(len(self.machine.disks)):
            # A disk that the firmware sees a second time has two entries.
            found = [entry["stats"] for entry in answers if entry.get("node-name") == f"disk{index}"]
            if not found:
                raise MachineError(f"{self.machine.name}: QEMU has no counters for disk {index}")
            result.append(
                BlockStats(
                    reads=sum(stats["rd_operations"] for stats in found),
                    read_bytes=sum(stats["rd_bytes"] for stats in found),
                    writes=sum(stats["wr_operations"] for stats in found),
                    written_bytes=sum(stats["wr_bytes"] for stats in found),
                    unmaps=sum(stats.get("unmap_operations", 0) for stats in found),
                    flushes=sum(stats["flush_operations"] for stats in found),
                )
            )
        return result

    def type_text(self, text: str) -> None:
        """Types on the serial console."""
        with socket.socket(socket.AF_UNIX) as keyboard:
            keyboard.settimeout(scaled(10))
            keyboard.connect(self._keyboard)
            keyboard.sendall(text.encode())
            # The serial line takes a byte at a time; closing would throw away what it has not taken yet.
            time.sleep(scaled(0.5))

    @property
    def events(self) -> list[str]:
        """Names of all that QEMU has told of itself, such as RTC_CHANGE (the guest has set the clock) and SHUTDOWN."""
        self._qmp.execute("query-status")
        return list(self._qmp.events)

    def wait_for_event(self, name: str, seconds: float) -> None:
        """Waits until QEMU has told this of itself; `seconds` is scaled. Raises MachineError."""
        deadline = time.monotonic() + scaled(seconds)
        while name not in self.events:
            if time.monotonic() > deadline:
                raise MachineError(self._complaint(f"had no event {name} within {scaled(seconds):.0f} s"))
            time.sleep(1)

    def press(self, *keys: str) -> None:
        """Presses keys one after the other on the machine's own keyboard, by QEMU's names (`ret`, `a`, `shift-a`)."""
        for key in keys:
            codes = [{"type": "qcode", "data": code} for code in key.split("-")]
            self._qmp.execute("send-key", {"keys": codes, "hold-time": 30})
            time.sleep(scaled(0.1))

    def pull_medium(self) -> None:
        """Takes the ISO away: opens the drive by force, or pulls the stick out."""
        if self.machine.medium_as is MediumAs.USB_STICK:
            self._qmp.execute("device_del", {"id": "medium-drive"})
        else:
            self._qmp.execute("eject", {"id": "medium-drive", "force": True})

    def screenshot(self, path: Path) -> None:
        """Saves what the screen shows as a PNG picture."""
        self._qmp.execute("screendump", {"filename": str(path), "format": "png"})

    def reset(self) -> None:
        """Presses the reset button: the machine starts again at its firmware, without any warning to what runs."""
        self._qmp.execute("system_reset")

    def power_button(self) -> None:
        """Presses the power button (ACPI)."""
        self._qmp.execute("system_powerdown")

    def stop(self) -> None:
        """Pulls the plug; safe to call again."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._qmp.close()
        self._errors.close()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _error_text(self) -> str:
        return Path(self._errors.name).read_text(errors="replace")[-2000:]

    def _complaint(self, what: str) -> str:
        tail = "\n".join(self.text().splitlines()[-25:])
        return f"{self.machine.name} {what}. Its console ({self.console}) ends with:\n{tail}"


class _Qmp:
    """The few words of QEMU's machine protocol that are needed here (one command at a time, events skipped)."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._file = channel.makefile("rwb", buffering=0)
        self.events: list[str] = []

    def hello(self, seconds: float) -> None:
        self._channel.settimeout(seconds)
        if "QMP" not in self._read():
            raise ValueError("no QMP greeting")
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        message: dict[str, Any] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
            while True:
                answer = self._read()
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise MachineError(f"QEMU refused {command}: {answer['error'].get('desc')}")
        except OSError as error:
            raise MachineError(f"QEMU does not answer {command}: {error}") from error

    def _read(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise OSError("QEMU closed the connection")
        parsed: dict[str, Any] = json.loads(line)
        if "event" in parsed:
            self.events.append(str(parsed["event"]))
        return parsed

    def close(self) -> None:
        self._file.close()
        self._channel.close()
