# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job from end to end: a machine is booted from its ISO, copied, imported, and boots where it arrived.

The demo tells this story and the end-to-end tests run it; both get the same checks. A check that does not hold raises
CheckError, so a story that was told to its end is a story that is true.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from e2e import site as sites
from e2e import source_machine
from e2e.qemu import (
    Accelerator,
    BlockStats,
    Controller,
    Disk,
    Firmware,
    Machine,
    Nic,
    Running,
    Smbios,
    accelerator,
    scaled,
)

TEMPLATE = "erp"
VDC = "acme-production"
STORAGE_PROFILE = "gold"
NETWORK = "acme-db"
TENANT_USER = "acme-admin"
SOURCE_MAC = "52:54:00:c0:1d:01"
SOURCE_MEMORY_MIB = 512
SOURCE_SERIALS = ("SRC-SYSTEM-0001", "SRC-DATA-0002")
MIB = 1 << 20


class CheckError(AssertionError):
    """Something that must hold does not; the message says what was found and what was expected."""


class Report(Protocol):
    """Where a story is told."""

    def step(self, title: str) -> contextlib.AbstractContextManager[Step]:
        """One step: its title when it begins, its time and result when it ends."""

    def progress(self, text: str) -> None:
        """What is going on within a step; shown at once or now and then."""


class Step(Protocol):
    def result(self, text: str) -> None:
        """What came out of the step, in a few words."""


@dataclass(slots=True)
class Plain:
    """A report as plain lines on standard error, for the tests' logs."""

    began: float = field(default_factory=time.monotonic)
    _result: str = ""
    _last: float = 0.0

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Plain]:
        began = time.monotonic()
        self._result = ""
        self._say(f"{title} ...")
        yield self
        self._say(f"{title}: {self._result or 'done'} ({time.monotonic() - began:.1f} s)")

    def result(self, text: str) -> None:
        self._result = text

    def progress(self, text: str) -> None:
        if time.monotonic() - self._last > 15:
            self._last = time.monotonic()
            self._say(f"  {text}")

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:7.1f}] {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Outcome:
    """What a story found out, for the table at the end and for assertions."""

    migration: dict[str, Any] = field(default_factory=dict)
    base_iso_bytes: int = 0
    iso_bytes: int = 0
    source_sha256: list[str] = field(default_factory=list)
    source_stats: list[BlockStats] = field(default_factory=list)
    vm: sites.VmHardware | None = None
    cloud: sites.CloudVm | None = None
    vmdk_bytes: list[int] = field(default_factory=list)
    guest_says: dict[str, str] = field(default_factory=dict)
    accelerator: Accelerator = Accelerator.TCG
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Story:
    """One migration. Everything it makes lies in `directory`; everything it starts ends with `close()`."""

    directory: Path
    report: Report
    firmware: Firmware = Firmware.BIOS
    auto_start: bool = False
    bad_data_sectors: Sequence[int] = ()
    """Sectors of the data disk that cannot be read."""
    outcome: Outcome = field(default_factory=Outcome)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _source: Running | None = None
    _disks: source_machine.SourceDisks | None = None
    site: sites.Site = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.site = self._stack.enter_context(sites.Site(self.directory))

    def __enter__(self) -> Story:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops every process that the story started."""
        self._stack.close()

    @property
    def base_iso(self) -> Path:
        return self.directory / "base.iso"

    @property
    def iso(self) -> Path:
        """The template's ISO, with its credential."""
        return self.directory / f"{TEMPLATE}.iso"

    @property
    def disks(self) -> source_machine.SourceDisks:
        if self._disks is None:
            raise RuntimeError("the source machine is made first")
        return self._disks

    @property
    def source(self) -> Running:
        if self._source is None:
            raise RuntimeError("the source is booted first")
        return self._source

    def tell(self) -> Outcome:
        """The whole story. Raises CheckError, SiteError, MachineError, SourceMachineError."""
        began = time.monotonic()
        self.make_source()
        self.start_simulators()
        self.start_gateway()
        self.activate()
        self.make_iso()
        self.boot_source()
        if not self.auto_start:
            self.confirm()
        self.wait_copied()
        self.check_source_untouched()
        self.finish()
        self.check_destination()
        self.compare_disks()
        self.boot_destination()
        self.outcome.seconds["all"] = time.monotonic() - began
        return self.outcome

    @contextlib.contextmanager
    def _step(self, key: str, title: str) -> Iterator[Step]:
        began = time.monotonic()
        with self.report.step(title) as step:
            yield step
        self.outcome.seconds[key] = time.monotonic() - began

    # -- the steps --------------------------------------------------------------------------------------------------

    def make_source(self) -> None:
        self.outcome.accelerator = accelerator()
        with self._step("source machine", "Make a source machine: Debian 12 on two disks") as step:
            built = _build_source()
            self._disks = built.copy_to(self.directory / "source")
            self.outcome.source_sha256 = [sha256(image) for image in self.disks.all]
            sizes = " + ".join(mib(image.stat().st_size) for image in self.disks.all)
            step.result(f"{sizes}, host name {self.disks.hostname}")

    def start_simulators(self) -> None:
        with self._step("simulators", "Start the simulated vCenter and Cloud Director") as step:
            self.site.start_simulators()
            step.result(f"{self.site.simulated['vcenter']['url']} and {self.site.simulated['vcd']['url']}")

    def start_gateway(self) -> None:
        """The gateway, the tenant's credential and both inventories."""
        with self._step("gateway", "Provider: set up the gateway and start it") as step:
            self.site.init_gateway()
            self.site.start_gateway()
            self.site.make_tenant_token()
            self.site.write_inventories(
                provider_variables(self.site), tenant_variables(self.base_iso, self.iso, self.auto_start)
            )
            step.result(self.site.url)

    def activate(self) -> None:
        with self._step("activate", "Provider: activate cold migration (playbook activate)") as step:
            self.site.playbook("provider", "activate")
            step.result(f"for the organization {self.site.organization}")

    def make_iso(self) -> None:
        """The template and its ISO, both by the tenant; the base image is the provider's."""
        with self._step("template", "Tenant: create a template (playbook template)") as step:
            self.site.playbook("tenant", "template")
            waits = "starts by itself" if self.auto_start else "asks for confirmation"
            step.result(f"{TEMPLATE}: {VDC}, {STORAGE_PROFILE}, {NETWORK}; {waits}; powers on")
        with self._step("base ISO", "Provider: build the base ISO (or take it from the cache)") as step:
            facts = sites.build_base_iso(self.directory / "logs/iso-build.log")
            self.base_iso.unlink(missing_ok=True)
            self.base_iso.symlink_to(facts["path"])
            self.outcome.base_iso_bytes = facts["size_bytes"]
            step.result(mib(facts["size_bytes"]))
        with self._step("ISO", "Tenant: make its ISO (playbook iso)") as step:
            self.site.playbook("tenant", "iso")
            self.outcome.iso_bytes = self.iso.stat().st_size
            step.result(mib(self.outcome.iso_bytes))

    def source_machine(self, name: str = "source") -> Machine:
        """The hardware of the source: nothing of it is VMware's."""
        return Machine(
            name=name,
            directory=self.site.logs,
            firmware=self.firmware,
            chipset="q35",
            memory_mib=SOURCE_MEMORY_MIB,
            sockets=1,
            cores_per_socket=2,
            controller=Controller.AHCI,
            disks=[
                Disk(self.disks.system, SOURCE_SERIALS[0]),
                Disk(self.disks.data, SOURCE_SERIALS[1], bad_sectors=self.bad_data_sectors),
            ],
            nics=[Nic("e1000e", SOURCE_MAC)],
            medium=self.iso,
            smbios=Smbios(),
        )

    def power_on_source(self) -> Running:
        """Boots the source from the ISO."""
        self._source = self._stack.enter_context(self.source_machine().start())
        return self._source

    def boot_source(self) -> None:
        title = f"Boot the source from the ISO ({self.firmware.upper()}, {SOURCE_MEMORY_MIB} MiB, {accelerator()})"
        with self._step("source boot", title) as step:
            self.power_on_source()
            wanted = ("waiting",) if not self.auto_start else ("confirmed", "copying", "copied")
            migration = self.site.wait_for_migration(wanted, scaled(90), tick=self._watch_source)
            self.outcome.migration = migration
            self._check_found(migration)
            step.result(f"a new migration: {migration['name']}, {migration['id'][:8]}, {migration['state']}")

    def _watch_source(self, migration: dict[str, Any] | None) -> None:
        if not self.source.alive:
            raise CheckError(f"the source machine ended:\n{sites.tail(self.source.console)}")
        if migration is None:
            self.report.progress(_last_line(self.source))

    def _check_found(self, migration: dict[str, Any]) -> None:
        """What the agent found is what QEMU gave the machine and what the builder put on its disks."""
        machine = migration["machine"]
        smbios = Smbios()
        expect("sockets", machine["cpu"]["sockets"], 1)
        expect("cores per socket", machine["cpu"]["cores_per_socket"], 2)
        expect("memory", machine["memory_bytes"], SOURCE_MEMORY_MIB * MIB)
        expect("firmware", machine["firmware"], "efi" if self.firmware is Firmware.UEFI else "bios")
        expect("MAC addresses", [nic["permanent_mac"] for nic in machine["nics"]], [SOURCE_MAC])
        expect("disk sizes", [d["size_bytes"] for d in machine["disks"]], [i.stat().st_size for i in self.disks.all])
        expect("disk serials", [d["serial"] for d in machine["disks"]], list(SOURCE_SERIALS))
        expect("computer name", machine["name"], self.disks.hostname)
        expect("migration's name", migration["name"], self.disks.hostname)
        expect("OS", (machine["guest"]["os_type"], machine["guest"]["id"]), ("linux", "debian"))
        expect("OS version", machine["guest"]["version"].split(".")[0], "12")
        expect("vendor, product", (machine["vendor"], machine["product"]), (smbios.manufacturer, smbios.product))
        for name, disk, start in (
            ("root", machine["disks"][0], source_machine.ROOT_START),
            ("data", machine["disks"][1], 0),
        ):
            areas = disk["free_map"]["areas"]
            decisions = [(area["decision"], area["reason"]) for area in areas if area["start_bytes"] == start]
            expect(f"free map of the {name} file system", [decision for decision, _ in decisions], ["mapped"])
        drivers = set(machine["guest"]["drivers"])
        if not {"vmw_pvscsi", "vmxnet3"} <= drivers:
            raise CheckError(f"the guest's drivers lack vmw_pvscsi or vmxnet3: {sorted(drivers)}")

    def confirm(self) -> None:
        with self._step("confirm", "Tenant: confirm it (playbook confirm)") as step:
            group = self.site.inventory("tenant").get("state_waiting", {}).get("hosts", [])
            if len(group) != 1:
                raise CheckError(f"the tenant's inventory shows {group} waiting, not one host")
            self.site.playbook("tenant", "confirm")
            migration = self.site.migration(self.outcome.migration["id"])
            if migration["state"] not in ("confirmed", "copying", "copied"):
                raise CheckError(f"after confirmation the migration is {migration['state']}")
            step.result(group[0])

    def wait_copied(self) -> None:
        with self._step("copy", "The agent copies every disk; the site verifies every chunk") as step:
            migration = self.site.wait_for_migration(("copied",), scaled(300), tick=self._watch_copy)
            self.outcome.migration = migration
            for disk in migration["disks"]:
                expect(f"disk {disk['index']}: chunks at the site", disk["have_chunks"], disk["chunks"])
                expect(f"disk {disk['index']}: verified", disk["verified"], True)
            total = sum(disk["size_bytes"] for disk in migration["disks"])
            stored = sum(disk["stored_bytes"] for disk in migration["disks"])
            step.result(f"{mib(total)} on the source's disks, {mib(stored)} at the site")

    def _watch_copy(self, migration: dict[str, Any] | None) -> None:
        if not self.source.alive:
            raise CheckError(f"the source machine ended during the copy:\n{sites.tail(self.source.console)}")
        if migration:
            parts = []
            for disk in migration["disks"]:
                parts.append(f"disk {disk['index']}: {100 * disk['have_chunks'] // disk['chunks']} %")
            self.report.progress(", ".join(parts))

    def check_source_untouched(self) -> None:
        with self._step("source check", "Power the source off; are its disks untouched?") as step:
            self.source.wait_for("You can power off this machine now", 30)
            self.outcome.source_stats = self.source.block_stats()
            self.source.stop()
            for index, stats in enumerate(self.outcome.source_stats):
                if not stats.untouched:
                    raise CheckError(f"source disk {index} was written to: {stats}")
            after = [sha256(image) for image in self.disks.all]
            expect("SHA-256 of the source's disks", after, self.outcome.source_sha256)
            step.result("0 writes counted by QEMU, same SHA-256 as before")

    def finish(self) -> None:
        with self._step("finish", "Provider: finish it (playbook finish)") as step:
            self.site.playbook("provider", "finish")
            migration = self.site.migration(self.outcome.migration["id"])
            self.outcome.migration = migration
            expect("state", migration["state"], "finished")
            step.result(f"VM {migration['refs']['vcenter_vm']} in vCenter, imported into Cloud Director")
        with self._step("finish again", "Provider: run finish again; nothing is left to do") as step:
            recap = self.site.playbook("provider", "finish")
            changed = [int(number) for number in re.findall(r"changed=(\d+)", recap)]
            if any(changed):
                raise CheckError(f"a second run of finish changed something:\n{recap[-2000:]}")
            step.result("no change")

    def check_destination(self) -> None:
        with self._step("destination check", "Look at the VM in vCenter and in Cloud Director") as step:
            migration = self.outcome.migration
            vm = sites.read_vm(self.site.simulated, _moid(migration["refs"]["vcenter_vm"]))
            self.outcome.vm = vm
            machine = migration["machine"]
            expect("VM's firmware", vm.firmware, machine["firmware"])
            expect("VM's CPUs", (vm.sockets, vm.cores_per_socket), (1, 2))
            expect("VM's memory", vm.memory_mib, SOURCE_MEMORY_MIB)
            expect("VM's disks", list(vm.disk_bytes), [-(-d["size_bytes"] // MIB) * MIB for d in machine["disks"]])
            expect("VM's power", vm.powered_on, True)
            expect("number of NICs", len(vm.nics), len(machine["nics"]))
            session = sites.CloudSession(
                self.site.simulated,
                self.site.organization,
                TENANT_USER,
                self.site.simulated["vcd"]["organizations"][self.site.organization]["users"][TENANT_USER]["password"],
            )
            refs = migration["refs"]
            cloud = session.vm(refs["vcd_vm"], refs["vcd_vapp"])
            self.outcome.cloud = cloud
            expect("status in Cloud Director (4 is on)", cloud.status, 4)
            expect("networks", [(network, mode) for network, mode, _ in cloud.networks], [(NETWORK, "POOL")])
            expect("guest customization", cloud.customization_enabled, False)
            expect("metadata coldmig.id", cloud.metadata.get("coldmig.id"), migration["id"])
            step.result(
                f"{vm.firmware}, {vm.guest_id}, {vm.controllers[0]}, {vm.nics[0][0]}; "
                f"the tenant sees it powered on, on {NETWORK}"
            )

    def received_disks(self) -> list[Path]:
        """The VMDK files that vCenter was given, in the order of the VM's disks."""
        from simulators.control import VcenterControl

        simulated = self.site.simulated
        control = VcenterControl(
            simulated["vcenter"]["control"]["url"], simulated["vcenter"]["control"]["token"], Path(simulated["ca"])
        )
        found = control.disks_of(_moid(self.outcome.migration["refs"]["vcenter_vm"]))
        return [Path(disk["path"]) for disk in found]

    def compare_disks(self) -> None:
        with self._step("comparison", "Compare the disks that arrived with the source's") as step:
            arrived = self.received_disks()
            expect("number of disks", len(arrived), len(self.disks.all))
            for index, (vmdk, image) in enumerate(zip(arrived, self.disks.all, strict=True)):
                self.outcome.vmdk_bytes.append(vmdk.stat().st_size)
                expect(
                    f"disk {index}: VMDK's size as announced",
                    vmdk.stat().st_size,
                    self.outcome.migration["disks"][index]["vmdk_bytes"],
                )
                qemu_img("check", "-f", "vmdk", str(vmdk))
                # The destination counts in MiB; what is beyond the source's end must be zeros, which compare checks.
                qemu_img("compare", "-f", "raw", "-F", "vmdk", str(image), str(vmdk))
            step.result(
                "identical: " + ", ".join(f"disk {n} {mib(s)} VMDK" for n, s in enumerate(self.outcome.vmdk_bytes))
            )

    def destination_machine(self) -> Machine:
        """The hardware that vCenter says the created VM has, in QEMU."""
        vm = self.outcome.vm
        if vm is None:
            raise RuntimeError("the VM is looked at first")
        controllers = set(vm.controllers)
        if len(controllers) != 1:
            raise CheckError(f"the VM's disks are on different controllers: {vm.controllers}")
        disks = []
        for index, vmdk in enumerate(self.received_disks()):
            # The guest may write; what arrived stays as it is.
            overlay = self.directory / f"destination-{index}.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", str(vmdk), str(overlay))
            disks.append(Disk(overlay, f"VMW-{index}", format="qcow2"))
        return Machine(
            name="destination",
            directory=self.site.logs,
            firmware=Firmware.UEFI if vm.firmware == "efi" else Firmware.BIOS,
            chipset="pc",
            memory_mib=vm.memory_mib,
            sockets=vm.sockets,
            cores_per_socket=vm.cores_per_socket,
            controller=VSPHERE_CONTROLLERS[controllers.pop()],
            disks=disks,
            nics=[
                Nic(VSPHERE_NICS[kind], mac or f"00:50:56:00:00:{n:02x}") for n, (kind, mac, _) in enumerate(vm.nics)
            ],
            smbios=Smbios("VMware, Inc.", "VMware Virtual Platform", f"VMware-{vm.uuid}", vm.uuid),
        )

    def boot_destination(self) -> None:
        with self._step("destination boot", "Boot what arrived, with the hardware that the VM has") as step:
            machine = self.destination_machine()
            with machine.start() as running:
                running.wait_for(
                    rf"^{re.escape(self.disks.hostname)} login:",
                    90,
                    failure=[r"Kernel panic", r"ALERT! +.*does not exist", r"emergency mode"],
                    tick=lambda: self.report.progress(_last_line(running)),
                )
                self.outcome.guest_says = _selfcheck(running.text())
            vm = self.outcome.vm
            says = self.outcome.guest_says
            if vm is None:
                raise RuntimeError("unreachable")
            expect("the guest's name", says.get("host"), self.disks.hostname)
            expect("the guest's own data", says.get("data"), "intact")
            expect("the guest's firmware", says.get("firmware"), vm.firmware)
            expect("the guest's CPUs", says.get("cpus"), str(vm.sockets * vm.cores_per_socket))
            step.result(f"{self.disks.hostname} login:")


VSPHERE_CONTROLLERS = {
    "ParaVirtualSCSIController": Controller.PVSCSI,
    "VirtualLsiLogicSASController": Controller.LSI_SAS,
    "VirtualAHCIController": Controller.AHCI,
    "VirtualNVMEController": Controller.NVME,
    "VirtualIDEController": Controller.IDE,
}
VSPHERE_NICS = {"VirtualVmxnet3": "vmxnet3", "VirtualE1000e": "e1000e", "VirtualE1000": "e1000"}


def provider_variables(site: sites.Site) -> dict[str, Any]:
    """The provider's inventory variables; passwords come from the environment."""
    variables: dict[str, Any] = {"coldmig_organizations": [site.organization]}
    if not site.simulated:
        return variables
    vcenter = site.simulated["vcenter"]
    return variables | {
        "finish_datacenter": vcenter["datacenter"],
        "finish_folder": vcenter["folders"][0],
        # One that backs no VDC, so that Cloud Director does not discover the VM before it is imported.
        "finish_resource_pool": vcenter["resource_pools"][0],
        "finish_datastore": vcenter["datastore"],
        "finish_owner": TENANT_USER,
    }


def tenant_variables(base: Path, iso: Path, auto_start: bool) -> dict[str, Any]:
    """The tenant's inventory variables."""
    return {
        "coldmig_templates": [
            {
                "name": TEMPLATE,
                "description": "The ERP machines of the old data centre",
                "destination": {
                    "vdc": VDC,
                    "storage_profile": STORAGE_PROFILE,
                    "networks": [{"network": NETWORK, "ip_mode": "POOL"}],
                },
                "auto_start": auto_start,
                "power_on": True,
            }
        ],
        # Built by the provider; without it the playbook would build one.
        "coldmig_base_iso": str(base),
        "coldmig_isos": [{"template": TEMPLATE, "dest": str(iso)}],
    }


def expect(what: str, found: object, wanted: object) -> None:
    """Raises CheckError unless they are equal."""
    if found != wanted:
        raise CheckError(f"{what}: found {found!r}, expected {wanted!r}")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mib(size: float) -> str:
    """A size for people."""
    return f"{size / MIB:.1f} MiB" if size < 1024 * MIB else f"{size / MIB / 1024:.2f} GiB"


def qemu_img(*arguments: str) -> str:
    """Runs qemu-img; CheckError with its words when it is not content."""
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CheckError(f"qemu-img {arguments[0]}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def _build_source() -> source_machine.SourceDisks:
    """Builds the source machine's disks, with sudo when we are not root."""
    try:
        return source_machine.build()
    except source_machine.SourceMachineError:
        if os.geteuid() == 0:
            raise
    cache = source_machine.cache_directory()
    cache.mkdir(parents=True, exist_ok=True)  # ours, not root's
    argv = ["sudo", sys.executable, str(Path(source_machine.__file__)), "--cache", str(cache)]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise source_machine.SourceMachineError(f"building it with sudo failed: {done.stderr.strip()}")
    return source_machine.build()


def _moid(reference: Any) -> str:
    """The id of a VM from the note that `finish` left: the id alone or {moid or vm: id}."""
    if isinstance(reference, dict):
        return str(reference.get("moid") or reference["vm"])
    return str(reference)


def _last_line(running: Running) -> str:
    # Boot menus draw with more than ASCII and position what they write; that says nothing as a line.
    lines = (" ".join(re.sub(r"[^\x20-\x7e]+", " ", line).split()) for line in running.text().splitlines())
    last = [line for line in lines if len(line) > 3]
    return f"console: {last[-1][:90]}" if last else "console: (silent)"


def _selfcheck(text: str) -> dict[str, str]:
    found = re.findall(r"selfcheck: (.*)", text)
    return dict(word.split("=", 1) for word in found[-1].split() if "=" in word) if found else {}


def dump(outcome: Outcome, path: Path) -> None:
    """Keeps what was measured, for figures in reports."""
    path.write_text(json.dumps({"seconds": outcome.seconds, "migration": outcome.migration}, indent=2, default=str))
