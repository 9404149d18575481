# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""vCenter as a migration needs it: connect, find things by name, find and remove the migration's VM.

Knows nothing of AnsibleModule. Every wait has an end, every failure is a VcenterError that says what was tried.
The API version is fixed at vSphere 6.7, the oldest that Cloud Director 10.3 and newer manage; negotiating it would be
one more request, and one that pyVmomi sends without a timeout.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import time
import traceback
import typing as t
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPSConnection
from http.cookies import SimpleCookie
from urllib.parse import unquote

from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, MissingLibraryError
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import CONTROLLERS, NICS, OfferedGuest
from ansible_collections.cda.coldmig.plugins.module_utils._http import backoff, ca_file, root_cause
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter_calls import (
    ATTEMPTS,
    SilentError,
    is_transient,
    is_unreached,
    make_stub,
)

PYVMOMI_IMPORT_ERROR: str | None = None
try:
    from pyVmomi import vim, vmodl
except ImportError:
    PYVMOMI_IMPORT_ERROR = traceback.format_exc()

API_VERSION = "vim.version.version12"
POLL_SECONDS = 0.5
PAGING_ATTEMPTS = 3
REMOVAL_SECONDS = 2.0
LARGEST_PICTURE = 16 << 20
PNG = b"\x89PNG\r\n\x1a\n"
TIMEOUT = 60
"""Seconds within which each connection and each answer has to come, by default."""
LISTED = 10
"""How many names an error lists."""

ID_KEY = "guestinfo.coldmig.id"
STATE_KEY = "guestinfo.coldmig.state"
STATE_COMPLETE = "complete"


class VcenterError(ColdmigError):
    """vCenter could not be reached, or did not do what it was asked for.

    ``transient``: the same may well succeed in a moment.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class NotFoundError(VcenterError):
    """A name that does not exist (or is not unique) in vCenter; lists what exists."""

    def __init__(self, kind: str, name: str, where: str, existing: Iterable[str]) -> None:
        super().__init__(f"{kind}: there is no {name!r} in {where}; there {listing(existing)}")
        self.kind = kind


class VcenterUnreachableError(VcenterError):
    """No usable connection to vCenter."""

    unreachable = True


def listing(names: Iterable[str]) -> str:
    """Names for the end of a sentence, bounded: "are 'a', 'b' and 3 more"."""
    known = sorted(set(names))
    if not known:
        return "are none"
    shown = ", ".join(repr(name) for name in known[:LISTED])
    more = len(known) - LISTED
    return f"{'is' if len(known) == 1 else 'are'} {shown}" + (f" and {more} more" if more > 0 else "")


def describe_fault(fault: t.Any) -> str:
    """vCenter's own words for a fault, with what its messages leave out."""
    if isinstance(fault, vim.fault.NoPermission):
        return f"the account lacks the privilege {fault.privilegeId} on {getattr(fault, 'object', None)}"
    if isinstance(fault, vim.fault.InvalidLogin):
        return "the user name or the password is not accepted"
    parts = [fault.msg] if getattr(fault, "msg", None) else []
    parts += [m.message for m in getattr(fault, "faultMessage", None) or () if getattr(m, "message", None)]
    if isinstance(fault, vmodl.fault.InvalidArgument) and fault.invalidProperty:
        parts.append(f"wrong: {fault.invalidProperty}")
    return f"{'; '.join(parts) or 'no message'} ({type(fault).__name__.rpartition('.')[2]})"


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what pyVmomi raises into VcenterError, beginning with what was being done."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise VcenterError(f"{action}: {describe_fault(fault)}", transient=is_transient(fault)) from fault
    except (OSError, HTTPException) as error:
        raise VcenterUnreachableError(
            f"{action}: {_connection_trouble(error)}", transient=is_transient(error)
        ) from error


def _connection_trouble(error: BaseException) -> str:
    where = getattr(error, "vcenter", None)
    name = f"vCenter {where}: " if where else ""
    if isinstance(error, ssl.SSLError):
        return f"{name}TLS failed: {root_cause(error)}"
    if isinstance(error, SilentError):
        return f"{name}{error}"
    if isinstance(error, TimeoutError):
        return f"{name}no answer in time"
    return f"{name}{root_cause(error)}"


def tls_context(*, validate_certs: bool, ca_path: str | None) -> ssl.SSLContext:
    """TLS as the options ask for. Raises InputError when the CA file cannot be used."""
    verify = ca_file("ca_path", ca_path)
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if not validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True)
class Placement:
    """Where the VM is made. The managed objects are pyVmomi's, the names are vCenter's."""

    datacenter: t.Any
    compute: t.Any
    pool: t.Any
    folder: t.Any
    datastore: t.Any
    network: t.Any | None
    datastore_name: str
    datastore_free_bytes: int | None


@dataclass(frozen=True)
class FoundVm:
    """A VM that carries a migration's id. ``complete`` is False for one that an earlier run left half-made."""

    ref: t.Any
    name: str
    complete: bool

    @property
    def moid(self) -> str:
        return str(self.ref._moId)  # pyVmomi has no public name for it


class Vcenter:
    """A session with vCenter; a context manager. *timeout* (seconds) bounds each connection and answer."""

    def __init__(
        self,
        hostname: str,
        username: str,
        password: str,
        *,
        port: int = 443,
        validate_certs: bool = True,
        ca_path: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        if PYVMOMI_IMPORT_ERROR is not None:
            raise MissingLibraryError("pyvmomi", PYVMOMI_IMPORT_ERROR)
        self.hostname = hostname
        self.port = port
        self.timeout = timeout
        self.validate_certs = validate_certs
        self.tls = tls_context(validate_certs=validate_certs, ca_path=ca_path)
        self._credentials = (username, password)
        self._stub = make_stub(
            relogin=self._open,
            host=hostname,
            port=port,
            version=API_VERSION,
            sslContext=self.tls,
            httpConnectionTimeout=timeout,
        )
        self._content: t.Any = None

    @classmethod
    def from_options(cls, options: Mapping[str, t.Any]) -> Vcenter:
        """From the options of a module (``vcenter_options``)."""
        return cls(
            options["hostname"],
            options["username"],
            options["password"],
            port=options["port"],
            validate_certs=options["validate_certs"],
            ca_path=options["ca_path"],
            timeout=options.get("vcenter_timeout") or TIMEOUT,
        )

    def __enter__(self) -> Vcenter:
        self.connect()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def connect(self) -> None:
        """Log in. Raises VcenterUnreachableError, or VcenterError when the credentials are refused."""
        with translated("logging in"):
            self._open()

    def _open(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """A new session. One whose cookie got lost with the answer ends by itself."""
        attempt = 1
        while True:
            self._stub.cookie = ""
            try:
                content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
                sessions = t.cast(t.Any, content.sessionManager)
                sessions.Login(*self._credentials, None)
            except (vmodl.MethodFault, OSError, HTTPException) as error:
                if not is_transient(error) or is_unreached(error) or attempt >= ATTEMPTS:
                    raise
                sleep(backoff(attempt))
                attempt += 1
            else:
                self._content = content
                return

    def second_stub(self, path: str, version: str) -> t.Any:
        """An adapter for another service of the same vCenter, in the same session."""
        cookie = SimpleCookie(self._stub.cookie).get("vmware_soap_session")
        stub = make_stub(
            relogin=lambda: None,
            host=self.hostname,
            port=self.port,
            path=path,
            version=version,
            sslContext=self.tls,
            httpConnectionTimeout=self.timeout,
            requestContext={"vcSessionCookie": "" if cookie is None else cookie.value},
        )
        stub.cookie = self._stub.cookie
        return stub

    def screen(self, vm: FoundVm) -> bytes | None:
        """What the console of a running VM shows, as PNG; None where vCenter gives no picture."""
        user, password = self._credentials
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        connection = HTTPSConnection(self.hostname, self.port, timeout=self.timeout, context=self.tls)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", f"/screen?id={vm.moid}", headers={"Authorization": f"Basic {token}"})
            answer = connection.getresponse()
            picture = answer.read(LARGEST_PICTURE + 1)
            if answer.status == 200 and picture.startswith(PNG) and len(picture) <= LARGEST_PICTURE:
                return picture
        return None

    def close(self) -> None:
        """Log out, as far as vCenter still listens."""
        if self._content is not None:
            if not self._stub.silence.in_a_row:
                with contextlib.suppress(vmodl.MethodFault, OSError, HTTPException):
                    self._content.sessionManager.Logout()
            self._content = None
        self._stub.DropConnections()

    def about(self) -> dict[str, str]:
        """``instance_uuid``, ``version`` and ``hostname`` of this vCenter."""
        about = self._content.about
        return {"instance_uuid": about.instanceUuid or "", "version": about.version or "", "hostname": self.hostname}

    def api_version(self) -> str:
        """Version of vCenter's API, such as ``8.0.2.0``."""
        return str(self._content.about.apiVersion or "")

    # -- properties

    def collect(self, root: t.Any, kind: t.Any, paths: Sequence[str]) -> list[tuple[t.Any, dict[str, t.Any]]]:
        """All objects of a type below *root* with their properties, in one query (and its further pages)."""
        with translated(f"reading the inventory ({kind.__name__.rpartition('.')[2]})"):
            try:
                return self._collect(root, kind, paths)
            except vmodl.fault.ManagedObjectNotFound:  # a view ends with its session, which was opened again
                return self._collect(root, kind, paths)

    def _collect(self, root: t.Any, kind: t.Any, paths: Sequence[str]) -> list[tuple[t.Any, dict[str, t.Any]]]:
        view = self._content.viewManager.CreateContainerView(root, [kind], True)
        try:
            step = vmodl.query.PropertyCollector.TraversalSpec(name="view", path="view", skip=False, type=type(view))
            start = vmodl.query.PropertyCollector.ObjectSpec(obj=view, skip=True, selectSet=[step])
            return self._retrieve(start, kind, paths)
        finally:
            with contextlib.suppress(vmodl.MethodFault, OSError, HTTPException):  # it ends with the session
                view.DestroyView()

    def properties(self, obj: t.Any, paths: Sequence[str]) -> dict[str, t.Any]:
        """Some properties of one object; absent ones are left out."""
        start = vmodl.query.PropertyCollector.ObjectSpec(obj=obj, skip=False)
        for _unused, values in self._retrieve(start, type(obj), paths):
            return values
        return {}

    def _retrieve(self, start: t.Any, kind: t.Any, paths: Sequence[str]) -> list[tuple[t.Any, dict[str, t.Any]]]:
        """All pages. One that got lost cannot be asked for again, so all of them are."""
        attempt = 1
        while True:
            try:
                return list(self._retrieve_once(start, kind, paths))
            except (vmodl.MethodFault, OSError, HTTPException) as error:
                if not is_transient(error) or is_unreached(error) or attempt >= PAGING_ATTEMPTS:
                    raise
                time.sleep(backoff(attempt))
                attempt += 1

    def _retrieve_once(
        self, start: t.Any, kind: t.Any, paths: Sequence[str]
    ) -> Iterator[tuple[t.Any, dict[str, t.Any]]]:
        collector = self._content.propertyCollector
        wanted = vmodl.query.PropertyCollector.PropertySpec(type=kind, pathSet=list(paths), all=False)
        spec = vmodl.query.PropertyCollector.FilterSpec(objectSet=[start], propSet=[wanted])
        page = collector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions())
        while page is not None:
            for found in page.objects:
                yield found.obj, {prop.name: prop.val for prop in found.propSet}
            if not page.token:
                return
            page = collector.ContinueRetrievePropertiesEx(page.token)

    # -- finding by name

    def _find(self, kind: str, vim_kind: t.Any, root: t.Any, name: str, where: str) -> t.Any:
        # vCenter keeps / \ and % in names escaped
        found = [(obj, unquote(values.get("name", ""))) for obj, values in self.collect(root, vim_kind, ["name"])]
        matching = [obj for obj, known in found if known == name]
        if not matching:
            raise NotFoundError(kind, name, where, (known for _unused, known in found))
        if len(matching) > 1:
            raise VcenterError(f"{kind}: {len(matching)} are named {name!r} in {where}; the name must be unique there")
        return matching[0]

    def place(
        self,
        *,
        datacenter: str,
        cluster: str | None,
        resource_pool: str | None,
        folder: str | None,
        datastore: str,
        network: str | None,
    ) -> Placement:
        """Look up every name. Raises NotFoundError, which lists what exists, for the first that is wrong."""
        found, problems = self.survey(
            datacenter=datacenter,
            cluster=cluster,
            resource_pool=resource_pool,
            folder=folder,
            datastore=datastore,
            network=network,
        )
        for problem in problems:
            raise problem
        return t.cast(Placement, found)

    def survey(
        self,
        *,
        datacenter: str,
        cluster: str | None,
        resource_pool: str | None,
        folder: str | None,
        datastore: str,
        network: str | None,
    ) -> tuple[Placement | None, list[VcenterError]]:
        """Look up every name, and say all that is wrong with them. The placement is None where something is."""
        problems: list[VcenterError] = []

        def asked(look: Callable[[], t.Any]) -> t.Any:
            try:
                return look()
            except VcenterError as error:
                problems.append(error)
                return None

        root = self._content.rootFolder
        center = asked(lambda: self._find("datacenter", vim.Datacenter, root, datacenter, f"vCenter {self.hostname}"))
        if center is None:
            return None, problems
        where = f"datacenter {datacenter!r}"
        with translated(f"reading {where}"):
            tops = self.properties(center, ["hostFolder", "vmFolder", "datastoreFolder", "networkFolder"])
        hosts = asked(lambda: self._find_pool(tops["hostFolder"], cluster, resource_pool, where))
        place = asked(lambda: self._find_folder(tops["vmFolder"], folder, where))
        store = asked(lambda: self._find("datastore", vim.Datastore, tops["datastoreFolder"], datastore, where))
        net = None
        if network is not None:
            net = asked(lambda: self._find("network", vim.Network, tops["networkFolder"], network, where))
        summary = None
        if store is not None:
            with translated(f"reading datastore {datastore!r}"):
                summary = self.properties(store, ["summary"]).get("summary")
            if summary is not None and summary.accessible is False:
                problems.append(VcenterError(f"datastore: {datastore!r} is not accessible now"))
        if problems:
            return None, problems
        compute, pool = hosts
        return Placement(
            datacenter=center,
            compute=compute,
            pool=pool,
            folder=place,
            datastore=store,
            network=net,
            datastore_name=datastore,
            datastore_free_bytes=None if summary is None else int(summary.freeSpace),
        ), []

    def root(self) -> t.Any:
        """The object that all others are below."""
        return self._content.rootFolder

    def missing_rights(self, entity: t.Any, rights: Sequence[str]) -> list[str]:
        """Those of the privileges that this account lacks on an object of vCenter."""
        with translated("asking for the rights of the account"):
            session = self._content.sessionManager.currentSession
            found = self._content.authorizationManager.HasPrivilegeOnEntities(
                entity=[entity], sessionId=session.key, privId=list(rights)
            )
        granted = {one.privId for answer in found or () for one in answer.privAvailability or () if one.isGranted}
        return [right for right in rights if right not in granted]

    def _find_pool(self, hosts: t.Any, cluster: str | None, pool: str | None, where: str) -> tuple[t.Any, t.Any]:
        """(compute resource, resource pool); without a pool's name the cluster's own."""
        if cluster is not None:
            compute = self._find("cluster", vim.ComputeResource, hosts, cluster, where)
            with translated(f"reading cluster {cluster!r}"):
                top = self.properties(compute, ["resourcePool"])["resourcePool"]
            if pool is None:
                return compute, top
            return compute, self._find("resource_pool", vim.ResourcePool, top, pool, f"cluster {cluster!r}")
        if pool is None:
            raise VcenterError("cluster, resource_pool: one of them is needed")
        found = self._find("resource_pool", vim.ResourcePool, hosts, pool, where)
        with translated(f"reading resource pool {pool!r}"):
            return self.properties(found, ["owner"])["owner"], found

    def _find_folder(self, top: t.Any, path: str | None, where: str) -> t.Any:
        """The VM folder with this path, for example C(migration/incoming); without one the datacenter's own."""
        current, walked = top, where
        for step in (part for part in (path or "").split("/") if part):
            with translated(f"reading the folders of {walked}"):
                children = self.properties(current, ["childEntity"]).get("childEntity") or []
                named = {
                    unquote(self.properties(child, ["name"])["name"]): child
                    for child in children
                    if isinstance(child, vim.Folder)
                }
            if step not in named:
                raise NotFoundError("folder", step, walked, named)
            current, walked = named[step], f"folder {step!r}"
        return current

    def offered_guests(self, compute: t.Any, hardware_version: str | None) -> list[OfferedGuest]:
        """The guest types that the cluster's hosts offer for this hardware version (None: their default)."""
        with translated("asking for the guest types that the hosts offer"):
            browser = self.properties(compute, ["environmentBrowser"]).get("environmentBrowser")
            if browser is None:
                return []
            spec = vim.EnvironmentBrowser.ConfigOptionQuerySpec(key=hardware_version)
            option = browser.QueryConfigOptionEx(spec)
        return [_offered(descriptor) for descriptor in (option.guestOSDescriptor if option else None) or ()]

    # -- the migration's VM

    def find_vm(self, migration_id: str, *, hint: str | None = None) -> FoundVm | None:
        """The VM that carries this migration's id, wherever it is by now.

        *hint* is a managed object id to look at first. VMs that vanish while they are read are no error.
        """
        if hint is not None:
            found = self._if_marked(vim.VirtualMachine(hint, self._stub), migration_id)
            if found is not None:
                return found
        # The settings of all VMs are megabytes where there are thousands of them. Name and annotation are not, and both
        # have the id until Cloud Director takes the VM over; by then the gateway knows its reference.
        candidates = [
            vm
            for vm, values in self.collect(self._content.rootFolder, vim.VirtualMachine, ["name", "config.annotation"])
            if migration_id[:8] in values.get("name", "") or migration_id in (values.get("config.annotation") or "")
        ]
        matching = [found for vm in candidates if (found := self._if_marked(vm, migration_id)) is not None]
        if len(matching) > 1:
            known = ", ".join(f"{vm.name} ({vm.moid})" for vm in matching)
            raise VcenterError(f"several VMs carry the migration id {migration_id}: {known}; remove all but one")
        return matching[0] if matching else None

    def _if_marked(self, vm: t.Any, migration_id: str) -> FoundVm | None:
        """The VM, if it is there and carries this id."""
        with translated(f"reading VM {vm._moId}"), contextlib.suppress(vmodl.fault.ManagedObjectNotFound):
            return _marked(vm, self.properties(vm, ["name", "config.extraConfig"]), migration_id)
        return None

    def remove_vm(self, vm: FoundVm, *, timeout: float, sleep: Callable[[float], None] = time.sleep) -> None:
        """Destroy a VM with its disks; one that is gone already is fine.

        A VM that an import lease of a dead run still holds cannot be destroyed until that lease ends, about five
        minutes after its last sign of life; that is waited for, as long as *timeout* (seconds) allows.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                state = self.properties(vm.ref, ["runtime.powerState"]).get("runtime.powerState")
                if state == vim.VirtualMachine.PowerState.poweredOn:
                    raise VcenterError(f"VM {vm.name} ({vm.moid}) is powered on; it is not removed")
                self.wait_for_task(vm.ref.Destroy_Task(), f"removing VM {vm.name}", deadline - time.monotonic())
            except vmodl.fault.ManagedObjectNotFound:
                return
            except (vmodl.MethodFault, OSError, HTTPException) as error:
                leased = isinstance(error, vim.fault.InvalidState | vim.fault.MethodDisabled)
                if not (leased or is_transient(error)) or time.monotonic() + REMOVAL_SECONDS > deadline:
                    why = f": still in use by another import after {timeout:g} seconds" if leased else ""
                    with translated(f"removing VM {vm.name}{why}"):
                        raise
                sleep(REMOVAL_SECONDS)
            else:
                return

    def is_off(self, vm: FoundVm) -> bool:
        """Whether the VM is powered off; a suspended one is not."""
        with translated(f"reading VM {vm.name}"):
            state = self.properties(vm.ref, ["runtime.powerState"]).get("runtime.powerState")
        return bool(state == vim.VirtualMachine.PowerState.poweredOff)

    def power_ons(self, vm: FoundVm) -> list[datetime]:
        """When the VM was powered on, as far back as vCenter keeps events (a month by default)."""
        wanted = vim.event.EventFilterSpec(
            entity=vim.event.EventFilterSpec.ByEntity(entity=vm.ref, recursion="self"),
            eventTypeId=["VmPoweredOnEvent", "DrsVmPoweredOnEvent"],
        )
        with translated(f"reading the events of VM {vm.name}"):
            events = self._content.eventManager.QueryEvents(wanted) or []
        return [event.createdTime for event in events]

    def mark_complete(self, vm: FoundVm, *, timeout: float, policy_id: str | None = None) -> None:
        """Note in the VM that all its disks arrived: what lacks this mark is replaced by the next run.

        The storage policy was asked for with the import; what an import makes of it is not documented, of this it is.
        """
        spec = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=STATE_KEY, value=STATE_COMPLETE)])
        if policy_id is not None:
            profiles = [vim.vm.DefinedProfileSpec(profileId=policy_id)]
            with translated(f"reading VM {vm.name}"):
                devices = self.properties(vm.ref, ["config.hardware.device"]).get("config.hardware.device") or ()
            spec.vmProfile = profiles
            spec.deviceChange = [
                vim.vm.device.VirtualDeviceSpec(operation="edit", device=device, profile=profiles)
                for device in devices
                if isinstance(device, vim.vm.device.VirtualDisk)
            ]
        self.reconfigure(vm, spec, f"marking VM {vm.name} complete", timeout=timeout)

    def reconfigure(self, vm: FoundVm, spec: t.Any, action: str, *, timeout: float) -> None:
        """Change settings of a VM. *spec* says how it shall be, so that it may be sent twice."""
        self.run_task(lambda: vm.ref.ReconfigVM_Task(spec), action, timeout=timeout)

    def run_task(
        self,
        start: Callable[[], t.Any],
        action: str,
        *,
        timeout: float,
        done: Callable[[], bool] = lambda: False,
    ) -> t.Any:
        """Start a task and wait for its end, again while vCenter is busy or an answer got lost.

        *done* says before a repetition whether the task has done its work after all; then there is no result.
        """
        deadline = time.monotonic() + timeout
        with translated(action):
            while True:
                try:
                    return self.wait_for_task(start(), action, deadline - time.monotonic())
                except (vmodl.MethodFault, OSError, HTTPException) as error:
                    if done():
                        return None
                    if not is_transient(error) or is_unreached(error) or time.monotonic() + POLL_SECONDS > deadline:
                        raise
                time.sleep(REMOVAL_SECONDS)

    def wait_for_task(self, task: t.Any, action: str, timeout: float) -> t.Any:
        """The task's result. Raises its fault, or VcenterError when it does not end in time."""
        deadline = time.monotonic() + timeout
        while True:
            info = self.properties(task, ["info"])["info"]
            if info.state == vim.TaskInfo.State.success:
                return info.result
            if info.state == vim.TaskInfo.State.error:
                raise info.error
            if time.monotonic() > deadline:
                raise VcenterError(f"{action}: not done within {timeout:.0f} seconds")
            time.sleep(POLL_SECONDS)

    def describe_leftover(self, vm: FoundVm) -> dict[str, t.Any]:
        """As describe_vm; nothing if it is gone meanwhile: the host removes what the lease of a dead run was making."""
        try:
            return self.describe_vm(vm)
        except VcenterError as error:
            if isinstance(error.__cause__, vmodl.fault.ManagedObjectNotFound):
                return {}
            raise

    def describe_vm(self, vm: FoundVm) -> dict[str, t.Any]:
        """The VM's hardware as vCenter has it; sizes in bytes and MB."""
        with translated(f"reading VM {vm.name}"):
            values = self.properties(vm.ref, ["name", "config"])
        config = values["config"]
        devices = {device.key: device for device in config.hardware.device}
        disks = sorted(
            (device for device in devices.values() if isinstance(device, vim.vm.device.VirtualDisk)),
            # as they were placed: bus after bus, unit after unit
            key=lambda disk: (getattr(devices.get(disk.controllerKey), "busNumber", 0), disk.unitNumber or 0),
        )
        names = {controller.vim_class: controller.name for controller in CONTROLLERS}
        return {
            "moid": vm.moid,
            "name": values["name"],
            "uuid": config.uuid,
            "instance_uuid": config.instanceUuid,
            "guest_id": config.guestId,
            "firmware": config.firmware,
            "secure_boot": bool(config.bootOptions and config.bootOptions.efiSecureBootEnabled),
            "num_cpus": config.hardware.numCPU,
            "cores_per_socket": config.hardware.numCoresPerSocket,
            "memory_mb": config.hardware.memoryMB,
            "hardware_version": config.version,
            "controller": next(
                (
                    names.get(_class_name(devices[disk.controllerKey]))
                    for disk in disks
                    if disk.controllerKey in devices
                ),
                None,
            ),
            "disks": [
                {
                    "index": index,
                    "key": disk.key,
                    "controller": names.get(_class_name(devices.get(disk.controllerKey))),
                    "capacity_bytes": disk.capacityInKB * 1024,
                    "file": getattr(disk.backing, "fileName", None),
                    "bus": getattr(devices.get(disk.controllerKey), "busNumber", None),
                    "unit": disk.unitNumber,
                }
                for index, disk in enumerate(disks)
            ],
            "nics": [
                {"key": device.key, "type": nic, "mac": device.macAddress}
                for device in devices.values()
                for nic, vim_class in NICS.items()
                if _class_name(device) == vim_class
            ],
        }


def _class_name(obj: t.Any) -> str:
    return type(obj).__name__.rpartition(".")[2]


def _marked(vm: t.Any, values: Mapping[str, t.Any], migration_id: str) -> FoundVm | None:
    options = {option.key: option.value for option in values.get("config.extraConfig") or ()}
    if options.get(ID_KEY) != migration_id:
        return None
    return FoundVm(vm, str(values.get("name", "")), options.get(STATE_KEY) == STATE_COMPLETE)


def _offered(descriptor: t.Any) -> OfferedGuest:
    def classes(kinds: Iterable[t.Any] | None) -> tuple[str, ...]:
        return tuple(getattr(kind, "__name__", str(kind)).rpartition(".")[2] for kind in kinds or ())

    return OfferedGuest(
        id=descriptor.id,
        supported_for_create=descriptor.supportedForCreate is not False,
        firmware=tuple(descriptor.supportedFirmware or ()),
        controllers=classes(descriptor.supportedDiskControllerList),
        nics=classes(descriptor.supportedEthernetCard),
        pvscsi_boot=descriptor.supportsPvscsiControllerForBoot,
        secure_boot=descriptor.supportsSecureBoot,
        max_cpus=descriptor.supportedMaxCPUs or None,
    )
