# SPDX-License-Identifier: GPL-3.0-or-later
"""What the simulated VCD knows: organizations, vApps, VMs, tasks, sessions. No HTTP and no XML here."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import secrets
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from simulators.control import ControlError, VcenterControl
from simulators.vcd.errors import ApiError, busy
from simulators.vcd.faults import Faults
from simulators.vcd.versions import VERSIONS

SYSTEM_ADMINISTRATOR = "System Administrator"
ORG_ADMINISTRATOR = "Organization Administrator"

FAILED_CREATION, UNRESOLVED, RESOLVED, SUSPENDED, POWERED_ON, POWERED_OFF, INCONSISTENT, MIXED = (
    -1,
    0,
    1,
    3,
    4,
    8,
    9,
    10,
)
DEFAULT_POLICY = "System Default"
IMPORTED_POLICY = "as imported"
STATUS_NAMES = {
    RESOLVED: "RESOLVED",
    FAILED_CREATION: "FAILED_CREATION", UNRESOLVED: "UNRESOLVED", SUSPENDED: "SUSPENDED", POWERED_ON: "POWERED_ON",
    POWERED_OFF: "POWERED_OFF", INCONSISTENT: "INCONSISTENT_STATE", MIXED: "MIXED",
}  # fmt: skip
NIC_TYPES = {
    "VirtualVmxnet3": "VMXNET3",
    "VirtualE1000": "E1000",
    "VirtualE1000e": "E1000E",
    "VirtualVmxnet2": "VMXNET2",
    "VirtualPCNet32": "VLANCE",
}


def now() -> str:
    """The time as XML Schema writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _arrival(vm: dict[str, Any]) -> float:
    """When the vCenter had a VM complete (seconds since the epoch); 0 for one that came without disks."""
    stamps = [disk["received"]["completed_at"] for disk in vm["disks"] if disk["received"]]
    return max((datetime.datetime.fromisoformat(stamp).timestamp() for stamp in stamps if stamp), default=0.0)


@dataclass(eq=False)
class User:
    id: str
    name: str
    org: Org
    role: str
    password: str = field(repr=False)
    api_token: str | None = field(repr=False, default=None)
    service_token: str | None = field(repr=False, default=None)  # good for one use

    @property
    def is_system(self) -> bool:
        return self.role == SYSTEM_ADMINISTRATOR

    @property
    def is_org_admin(self) -> bool:
        return self.role == ORG_ADMINISTRATOR


@dataclass(eq=False)
class Org:
    id: str
    name: str
    full_name: str
    users: dict[str, User] = field(default_factory=dict)
    vdcs: dict[str, Vdc] = field(default_factory=dict)


@dataclass(eq=False)
class Profile:
    id: str
    name: str
    vdc: Vdc
    default: bool


@dataclass(eq=False)
class Network:
    id: str
    name: str
    vdc: Vdc
    portgroup: str
    gateway: str
    prefix: int
    first: str
    last: str
    dns: str | None
    group: Group | None = None

    def serves(self, vdc: Vdc) -> bool:
        """Whether vApps of the VDC may use it."""
        return vdc in self.group.vdcs if self.group is not None else vdc is self.vdc

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(f"{self.gateway}/{self.prefix}", strict=False)


@dataclass(eq=False)
class Group:
    """A data center group: VDCs that share networks."""

    id: str
    name: str
    vdcs: list[Vdc]


@dataclass(eq=False)
class Vdc:
    id: str
    name: str
    org: Org
    resource_pool: str
    profiles: dict[str, Profile] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)


@dataclass(eq=False)
class VAppNetwork:
    name: str
    fence: str
    parent: Network | None
    description: str | None = None
    portgroup: str | None = None  # of a network that an import left behind
    gateway: str | None = None
    netmask: str | None = None


@dataclass
class Nic:
    index: int
    network: str
    mac: str
    adapter: str
    mode: str
    connected: bool
    ip: str | None = None
    needs_customization: bool = False


@dataclass
class MetadataEntry:
    key: str
    kind: str  # xsi:type of the value
    value: str
    domain: str = "GENERAL"
    visibility: str = "READWRITE"


@dataclass(eq=False)
class Entity:
    id: str
    name: str
    description: str = ""
    metadata: dict[tuple[str, str], MetadataEntry] = field(default_factory=dict)
    task: Task | None = None  # the one that runs on it
    created: str = field(default_factory=now)


@dataclass(eq=False)
class Vm(Entity):
    vapp: VApp = field(default=None)  # type: ignore[assignment]
    moref: str = ""
    profile: Profile = field(default=None)  # type: ignore[assignment]
    disk_profiles: dict[int, Profile] = field(default_factory=dict)
    nics: list[Nic] = field(default_factory=list)
    primary_nic: int = 0
    customization: dict[str, object] = field(default_factory=dict)
    local_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    deployed: bool = False
    standalone_failed: bool = False
    sizing_policy: str = IMPORTED_POLICY


@dataclass(eq=False)
class VApp(Entity):
    vdc: Vdc = field(default=None)  # type: ignore[assignment]
    owner: User = field(default=None)  # type: ignore[assignment]
    vms: list[Vm] = field(default_factory=list)
    networks: dict[str, VAppNetwork] = field(default_factory=dict)
    state: int = UNRESOLVED  # of the vApp itself until it has VMs
    auto_nature: bool = False

    @property
    def deployed(self) -> bool:
        return any(vm.deployed for vm in self.vms)


@dataclass(eq=False)
class Task:
    id: str
    operation_name: str
    operation: str
    owner: Entity
    org: Org
    user: User
    status: str = "queued"
    progress: int = 1
    details: str = ""
    started: str = field(default_factory=now)
    ended: str | None = None
    error: ApiError | None = None
    cancel_requested: bool = False

    @property
    def is_over(self) -> bool:
        return self.status in ("success", "error", "canceled", "aborted")


@dataclass(eq=False)
class Session:
    id: str
    token: str = field(repr=False)
    user: User
    used: float
    by_api_token: bool = False


class Site:
    """The whole state. Everything that reads or changes it holds `lock`."""

    def __init__(self, config: dict[str, Any], vcenter: VcenterControl) -> None:
        scenario = config["scenario"]
        self.vcenter = vcenter
        self.vcenter_user: str = config["vcenter"]["username"]
        self.vcenter_url: str = config["vcenter"]["url"]
        self.lock = threading.RLock()
        self.task_seconds: float = config["task_seconds"]
        self.inventory_lag: float = config["inventory_lag"]
        self.idle_seconds: float = 1800.0
        self.discovery_seconds: float = 180.0
        self.oldest, self.newest = VERSIONS[0], VERSIONS[-1]
        self.runtime_lease: int = 0  # seconds
        self.vm_quota: int = 0  # of each VDC; 0: none
        self.storage_limit_mb: int = 0  # of each storage profile; 0: none
        self.standalone_networks = "attached"  # or "asked": what a standalone VM's NIC names must be put there before
        self.faults = Faults()
        self.violations: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.vim_server_id: str = scenario["virtual_center_id"]
        self.vim_server_name: str = scenario["virtual_center"]
        self.managed_folder: str = scenario["managed_folder"]
        self.system = Org(str(uuid.UUID("a93c9db9-7471-3192-8d09-a8f7eeda85f9")), "System", "System Organization")
        self.orgs: dict[str, Org] = {self.system.id: self.system}
        self.users: dict[str, User] = {}
        self.vdcs: dict[str, Vdc] = {}
        self.profiles: dict[str, Profile] = {}
        self.networks: dict[str, Network] = {}
        self.groups: dict[str, Group] = {}
        self.vapps: dict[str, VApp] = {}
        self.vms: dict[str, Vm] = {}
        self.tasks: dict[str, Task] = {}
        self.sessions: dict[str, Session] = {}
        self._mac = 0
        self._add_users(self.system, scenario["users"])
        # the built-in owner of what the system itself creates
        self.system_user = User(str(uuid.uuid5(uuid.NAMESPACE_DNS, "system")), "system", self.system, "", "")
        self.users[self.system_user.id] = self.system_user
        for name, data in scenario["organizations"].items():
            self._add_org(name, data)

    def _add_users(self, org: Org, users: dict[str, Any]) -> None:
        for name, data in users.items():
            user = User(
                data["id"], name, org, data["role"], data["password"], data.get("api_token"), data.get("service_token")
            )
            org.users[name] = self.users[user.id] = user

    def _add_org(self, name: str, data: dict[str, Any]) -> None:
        org = self.orgs[data["id"]] = Org(data["id"], name, data["full_name"])
        self._add_users(org, data["users"])
        for vdc_name, vdc_data in data["vdcs"].items():
            vdc = Vdc(vdc_data["id"], vdc_name, org, vdc_data["resource_pool"])
            org.vdcs[vdc_name] = self.vdcs[vdc.id] = vdc
            for profile_name, profile in vdc_data["storage_profiles"].items():
                item = Profile(profile["id"], profile_name, vdc, profile["default"])
                vdc.profiles[profile_name] = self.profiles[item.id] = item
            for network_name, net in vdc_data["networks"].items():
                first, last = net["range"]
                network = Network(
                    net["id"],
                    network_name,
                    vdc,
                    net["portgroup"],
                    net["gateway"],
                    net["prefix"],
                    first,
                    last,
                    net["dns"],
                )
                vdc.networks[network_name] = self.networks[network.id] = network
        for group_name, group in data["groups"].items():
            self._add_group(org, group_name, group)

    def record(self, kind: str, **details: Any) -> None:
        """Note an event; the control endpoint gives them out."""
        self.events.append({"kind": kind, "time": now(), "detail": details})

    @property
    def versions(self) -> list[tuple[int, int]]:
        """API versions that are served now, oldest first."""
        return [version for version in VERSIONS if self.oldest <= version <= self.newest]

    def _add_group(self, org: Org, name: str, data: dict[str, Any]) -> None:
        group = self.groups[data["id"]] = Group(data["id"], name, [org.vdcs[vdc] for vdc in data["vdcs"]])
        for network_name, net in data["networks"].items():
            first, last = net["range"]
            self.networks[net["id"]] = Network(
                net["id"], network_name, group.vdcs[0], net["portgroup"], net["gateway"], net["prefix"],
                first, last, net["dns"], group,
            )  # fmt: skip

    # sessions

    def login(self, user: User, *, by_api_token: bool = False) -> Session:
        """Open a session with a token that looks like VCD's (a JWT, which clients must not look into)."""
        with self.lock:
            parts = [
                {"alg": "RS256", "typ": "JWT"},
                {"sub": user.name, "iss": user.org.id, "jti": secrets.token_hex(16)},
            ]
            head = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts)
            token = f"{head}.{secrets.token_urlsafe(64)}"
            session = Session(str(uuid.uuid4()), token, user, time.monotonic(), by_api_token)
            self.sessions[token] = session
            return session

    def session(self, token: str) -> Session | None:
        """Give a live session, and count this as use of it."""
        with self.lock:
            session = self.sessions.get(token)
            if session is None:
                return None
            if time.monotonic() - session.used > self.idle_seconds:
                del self.sessions[token]
                return None
            session.used = time.monotonic()
            return session

    # the vCenter

    def inventory(self) -> list[dict[str, Any]]:
        """VMs of the vCenter that VCD knows by now: one that was imported is known some time after its lease ended."""
        known = []
        backing = {vdc.resource_pool: vdc for vdc in self.vdcs.values()}
        for vm in self.vcenter.vms():
            age = time.time() - _arrival(vm)
            if vm["leased"] or age < self.inventory_lag:
                continue
            vdc = backing.get(vm["resource_pool"])
            if vdc is not None and not vm["managed_by"] and age >= self.discovery_seconds:
                vm["managed_by"] = self._discover(vm, vdc)
            known.append(vm)
        return known

    def _discover(self, found: dict[str, Any], vdc: Vdc) -> str:
        """Take over a VM that lies in a pool of a VDC, as VCD does by itself every few minutes."""
        suffix = secrets.token_hex(4)
        name = f"Discovered {found['name']}-{suffix}"
        vapp = VApp(str(uuid.uuid4()), name, vdc=vdc, owner=self.system_user, auto_nature=True, state=POWERED_OFF)
        profile = next(iter(vdc.profiles.values()))
        vm = Vm(str(uuid.uuid4()), found["name"], vapp=vapp, moref=found["id"], profile=profile)
        vm.customization = {"Enabled": False, "ComputerName": "discovered"}
        vapp.vms.append(vm)
        self.vapps[vapp.id], self.vms[vm.id] = vapp, vm
        by = f"urn:vcloud:vm:{vm.id}"
        self.vcenter.call("POST", f"vms/{found['id']}/adopt", {"by": by})
        return by

    def hardware(self, vm: Vm) -> dict[str, Any] | None:
        """The vCenter's view of a VM; None when it is gone there."""
        if not vm.moref:
            return None
        try:
            view: dict[str, Any] = self.vcenter.call("GET", f"vms/{vm.moref}")
        except ControlError:
            return None
        return view

    def vm_status(self, vm: Vm, hardware: dict[str, Any] | None) -> int:
        """The number that the API gives as a VM's status."""
        if vm.standalone_failed:
            return FAILED_CREATION
        if not vm.moref:
            return UNRESOLVED
        if hardware is None:
            return INCONSISTENT
        return {"poweredOn": POWERED_ON, "suspended": SUSPENDED}.get(hardware["power"], POWERED_OFF)

    def vapp_status(self, vapp: VApp) -> int:
        """The number that the API gives as a vApp's status."""
        if not vapp.vms or vapp.state in (UNRESOLVED, FAILED_CREATION):
            return vapp.state
        states = {self.vm_status(vm, self.hardware(vm)) for vm in vapp.vms}
        return states.pop() if len(states) == 1 else MIXED

    def new_mac(self) -> str:
        """A MAC of this VCD's own range."""
        self._mac += 1
        return f"00:50:56:01:{self._mac >> 8 & 255:02x}:{self._mac & 255:02x}"

    def macs(self, besides: Vm) -> Iterator[str]:
        """All MACs in use, but those of one VM."""
        for vm in self.vms.values():
            if vm is not besides:
                yield from (nic.mac for nic in vm.nics)

    def used_mb(self, profile: Profile) -> int:
        """What the disks on a storage profile may take."""
        used = 0
        for vm in self.vms.values():
            for disk in (self.hardware(vm) or {"disks": []})["disks"]:
                if vm.disk_profiles.get(disk["key"], vm.profile) is profile:
                    used += disk["capacity_bytes"] >> 20
        return used

    def free_address(self, network: Network, besides: Vm) -> str:
        """An address of the network's pool.

        Raises:
            ApiError: the pool is used up.
        """
        used = {nic.ip for vm in self.vms.values() if vm is not besides for nic in vm.nics}
        used |= {nic.ip for nic in besides.nics}
        address, last = ipaddress.IPv4Address(network.first), ipaddress.IPv4Address(network.last)
        while address <= last:
            if str(address) not in used:
                return str(address)
            address += 1
        raise ApiError(400, "IP_POOL_EXHAUSTED", f"The network {network.name} has no free IP address.")

    # tasks

    @staticmethod
    def locks(entity: Entity) -> list[Entity]:
        """What a task on this entity locks: a VM with its vApp, and a vApp with its VMs."""
        if isinstance(entity, Vm):
            return [entity, entity.vapp]
        if isinstance(entity, VApp):
            return [entity, *entity.vms]
        return [entity]

    def check_idle(self, entity: Entity) -> None:
        """Refuse when a task runs.

        Raises:
            ApiError: BUSY_ENTITY.
        """
        for locked in self.locks(entity):
            if locked.task is not None and not locked.task.is_over:
                kind = "vm" if isinstance(locked, Vm) else "vapp"
                raise busy(locked.name, f"com.vmware.vcloud.entity.{kind}:{locked.id}", locked.task.operation_name)

    def start(self, entity: Entity, org: Org, user: User, names: tuple[str, str], work: Callable[[Task], None]) -> Task:
        """Make a task that does `work` (with the lock held) after a while; `names` are operationName and operation.

        Raises:
            ApiError: BUSY_ENTITY.
        """
        with self.lock:
            self.check_idle(entity)
            task = Task(str(uuid.uuid4()), *names, entity, org, user)
            self.tasks[task.id] = task
            for locked in self.locks(entity):
                locked.task = task
        threading.Thread(target=self._run, args=(task, work), daemon=True).start()
        return task

    def _run(self, task: Task, work: Callable[[Task], None]) -> None:
        time.sleep(self.task_seconds / 4)
        with self.lock:
            if task.cancel_requested:
                self._end(task, "canceled")
                return
            task.status, task.progress = "running", 10
        time.sleep(self.task_seconds / 2)
        while self.faults.stuck_tasks and not task.cancel_requested:
            time.sleep(0.1)
        with self.lock:
            task.progress = 70
            try:
                injected = self._injected(task)
                if injected is not None:
                    raise injected
                work(task)
            except ApiError as error:
                task.error = error
            except (ControlError, OSError) as error:
                task.error = ApiError(500, "INTERNAL_SERVER_ERROR", f"vCenter: {error}")
                print(f"task {task.operation_name}: {error}", file=sys.stderr, flush=True)
            if task.error is not None and isinstance(task.owner, VApp) and task.owner.state == UNRESOLVED:
                task.owner.state = FAILED_CREATION
        time.sleep(self.task_seconds / 4)
        with self.lock:
            self._end(task, "error" if task.error else "success")

    def _injected(self, task: Task) -> ApiError | None:
        errors = self.faults.task_errors
        key = next((key for key in (task.operation_name, "*") if key in errors), None)
        if key is None:
            return None
        message = errors[key]
        if self.faults.task_error_times > 0:
            self.faults.task_error_times -= 1
            if self.faults.task_error_times == 0:
                del errors[key]
        if isinstance(message, dict):
            return ApiError(
                message.get("status", 500),
                message.get("minor", "INTERNAL_SERVER_ERROR"),
                message["message"],
                tenant=message.get("tenant"),
            )
        return ApiError(500, "INTERNAL_SERVER_ERROR", message)

    def _end(self, task: Task, status: str) -> None:
        task.status, task.ended = status, now()
        task.progress = 100 if status == "success" else task.progress
