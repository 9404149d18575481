# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Makes an imported VM what its migration wants: compares, and changes only what differs.

One task at a time, as VCD locks the vApp; in a vApp that others use as well, also between runs side by side.
"""

from __future__ import annotations

import contextlib
import time
import typing as t
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_bodies as bodies
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as xml
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import Migration
from ansible_collections.cda.coldmig.plugins.module_utils._guest_hardware import choose_nic, wish_of
from ansible_collections.cda.coldmig.plugins.module_utils._migration import guest_of, mac_of
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd, entity_id, same_entity
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_errors import VcdError
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_lock import alone_with
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_target import (
    ID,
    MADE_HERE,
    METADATA_ID,
    Target,
    vcd_name,
)

LEFT_OVER = (xml.SYSTEM_DOMAIN, "coldmig.networks")
"""On a VM in a vApp that others use: the networks that its import brought along, until they are dropped."""
ATTEMPTS = 5
POWER_PAUSE = 2.0
POWER_TIMEOUT = 120.0


@dataclass
class Change:
    """One difference between what is and what is wanted, and how to remove it."""

    name: str
    before: t.Any
    after: t.Any
    apply: Callable[[], None] = field(repr=False)


def computer_name(migration: Migration) -> str:
    """The guest's own name, as far as VCD takes it."""
    guest = guest_of(migration)
    windows = guest.get("os_type") == "windows"
    own = (guest.get("computer_name") if windows else None) or guest.get("hostname") or migration["name"]
    return bodies.safe_computer_name(str(own), windows=windows)


def wanted_nics(migration: Migration, current: Sequence[xml.Nic]) -> tuple[xml.Nic, ...]:
    """One NIC for each of the source. Those without an entry in the destination arrive disconnected.

    A MAC that is not to be kept is VCD's business: the one that a NIC has stays.
    """
    existing = {nic.index: nic for nic in current}
    usual = wish_of(migration.get("hardware")).nic or choose_nic(guest_of(migration), []).name
    networks = migration["destination"]["networks"]
    nics = []
    for index, source in enumerate(migration["machine"]["nics"]):
        present = existing.get(index)
        nic = xml.Nic(index=index, mac=present.mac if present else None, adapter=usual.upper())
        if index < len(networks):
            entry = networks[index]
            nic = replace(nic, adapter=(entry.get("adapter") or usual).upper())
            if entry["network"] != xml.NO_NETWORK:
                nic = replace(
                    nic,
                    network=entry["network"],
                    connected=entry["connected"],
                    mode=entry["ip_mode"],
                    ip=entry["ip"] if entry["ip_mode"] == "MANUAL" else None,
                )
            if entry["keep_mac"]:
                nic = replace(nic, mac=mac_of(source).lower())
        nics.append(nic)
    return tuple(nics)


def comparable(nic: xml.Nic) -> xml.Nic:
    """A NIC without what VCD fills in by itself."""
    return replace(
        nic,
        ip=nic.ip if nic.mode == "MANUAL" else None,
        mac=nic.mac.lower() if nic.mac else None,
        connected=nic.connected and nic.network != xml.NO_NETWORK,
    )


def shown(nics: Iterable[xml.Nic]) -> list[dict[str, t.Any]]:
    """NICs as the module returns them."""
    return [
        {
            "index": nic.index,
            "network": None if nic.network == xml.NO_NETWORK else nic.network,
            "connected": nic.connected,
            "ip_mode": nic.mode,
            "ip": nic.ip,
            "mac": nic.mac,
            "adapter": nic.adapter,
        }
        for nic in nics
    ]


class Configurator:
    """Compares the VM with the migration and changes what differs, one task at a time."""

    def __init__(
        self,
        vcd: Vcd,
        migration: Migration,
        target: Target,
        *,
        vapp: xml.VApp,
        vm: xml.Vm,
        timeout: float,
        disk_keys: Sequence[str] = (),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vcd = vcd
        self._migration = migration
        self._target = target
        self._vapp = vapp
        self._vm = vm
        self._timeout = timeout
        self._disk_keys = disk_keys
        self._sleep = sleep
        self._clock = clock
        self._made_here = False

    def changes(self) -> list[Change]:
        """What differs, in the order in which it must be changed. Reads only."""
        nics = self._vcd.read(
            xml.read_nics, f"{self._vm.href}/networkConnectionSection/", what="reading the network connections"
        )
        present = self._vcd.read(xml.read_metadata, f"{self._vm.href}/metadata", what="reading the metadata")
        networks = self._vcd.read(xml.read_vapp_networks, self._networks_href, what="reading the vApp's networks")
        changes = [*self._metadata(present, nics)]
        if self._target.arrive != "existing":
            changes += self._vapp_metadata()
        # A VM that runs was configured before it was started; since then it is its owner's.
        if self._vm.status != xml.STATUS_POWERED_ON:
            changes += [
                *self._networks_and_nics(nics, networks),
                *self._left_over(present, nics, networks),
                *self._customization(),
                *self._settings(),
            ]
        if self._target.arrive == "vapp":
            changes += self._description()
        if self._target.owner is not None:
            changes += self._owner(self._target.owner)
        if self._migration["power_on"] and self._vm.status != xml.STATUS_POWERED_ON:
            changes.append(Change("power", self._vm.status_name, "powered_on", self._power_on))
        return changes

    def apply(self, change: Change) -> None:
        """Make a change; in a vApp that others use, no other run changes it meanwhile."""
        with contextlib.ExitStack() as stack:
            if not self._target.own_vapp:
                stack.enter_context(alone_with(self._vcd, self._target.vdc.href, self._vapp.name, self._timeout))
            change.apply()

    def _put(self, href: str, what: str, media: str, body: bytes, *, method: str = "PUT") -> None:
        """All that is sent by this says how something is to be, so it may be sent twice."""
        what = f"{what} of VM {self._vm.name!r}"
        self._vcd.run(method, href, what=what, media=media, body=body, timeout=self._timeout, repeatable=True)

    # -- metadata

    def _metadata(self, present: Mapping[tuple[str, str], str], nics: Sequence[xml.Nic]) -> Iterable[Change]:
        wanted = {ID: self._migration["id"]}
        for key, value in (self._migration["destination"].get("metadata") or {}).items():
            # once it is there it is its owner's to change
            if ("GENERAL", key) not in present:
                wanted["GENERAL", key] = value
        if not self._target.own_vapp and ID not in present:
            brought = sorted({nic.network for nic in nics} - {xml.NO_NETWORK, *self._target.networks})
            if brought:
                wanted[LEFT_OVER] = "\n".join(brought)
        missing = {key: value for key, value in wanted.items() if present.get(key) != value}
        if missing:
            yield self._metadata_change("metadata", self._vm.href, present, missing)

    def _metadata_change(
        self, name: str, href: str, present: Mapping[tuple[str, str], str], missing: Mapping[tuple[str, str], str]
    ) -> Change:
        body = bodies.metadata(missing)
        return Change(
            name,
            {key: present.get((domain, key)) for domain, key in missing},
            {key: value for (_domain, key), value in missing.items()},
            lambda: self._put(f"{href}/metadata", "setting metadata", bodies.MEDIA_METADATA, body, method="POST"),
        )

    def _vapp_metadata(self) -> Iterable[Change]:
        """Of a vApp of its own. Notes whether one for several VMs was made by us."""
        present = self._vcd.read(xml.read_metadata, f"{self._vapp.href}/metadata", what="reading the metadata")
        self._made_here = MADE_HERE in present
        wanted = {ID: self._migration["id"]} if self._target.own_vapp else {}
        missing = {key: value for key, value in wanted.items() if present.get(key) != value}
        if missing:
            yield self._metadata_change("vapp_metadata", self._vapp.href, present, missing)

    # -- networks

    @property
    def _networks_href(self) -> str:
        return f"{self._vapp.href}/networkConfigSection/"

    def _networks_and_nics(self, current: Sequence[xml.Nic], names: Sequence[str]) -> Iterable[Change]:
        nics = wanted_nics(self._migration, current)
        used = {nic.network for nic in nics} - {xml.NO_NETWORK}
        # the vApp of a standalone VM is VCD's own, and gets what its VM is connected to
        if used - set(names) and self._target.arrive != "standalone":
            yield Change("vapp_networks", sorted(names), sorted(used | set(names)), lambda: self._attach(used))
        if [comparable(nic) for nic in current] != [comparable(nic) for nic in nics]:
            yield Change("nics", shown(current), shown(nics), lambda: self._connect(nics, used))

    def _attach(self, used: set[str]) -> None:
        """Attach those that are missing now, and look whether they stayed: a run elsewhere may write as well."""
        for _attempt in range(ATTEMPTS):
            section = self._vcd.api("GET", self._networks_href, what="reading the vApp's networks")
            missing = sorted(used - set(xml.read_vapp_networks(section)))
            if not missing:
                return
            body = bodies.change_vapp_networks(section, add=[self._target.networks[name] for name in missing])
            self._put(self._networks_href, "attaching the networks", bodies.MEDIA_NETWORK_CONFIG, body)
        raise VcdError(f"attaching the networks of VM {self._vm.name!r}: something else keeps taking them away")

    def _connect(self, nics: Sequence[xml.Nic], used: set[str]) -> None:
        primary = next((nic.index for nic in nics if nic.connected), 0)
        body = bodies.network_connections(nics, primary)
        href = f"{self._vm.href}/networkConnectionSection/"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._put(href, "setting the network connections", bodies.MEDIA_NETWORK_CONNECTION, body)
                return
            except VcdError:
                names = self._vcd.read(xml.read_vapp_networks, self._networks_href, what="reading the vApp's networks")
                if used <= set(names) or attempt == ATTEMPTS:
                    raise
                self._attach(used)

    def _left_over(
        self, present: Mapping[tuple[str, str], str], nics: Sequence[xml.Nic], names: Sequence[str]
    ) -> Iterable[Change]:
        """VCD makes a network of each port group that the VM had in vCenter.

        In a vApp of its own everything else goes too; in one that others use, only what this import brought along and
        nobody uses.
        """
        used = {nic.network for nic in wanted_nics(self._migration, nics)} | {xml.NO_NETWORK}
        dropped: set[str] = set()
        if self._target.arrive == "vapp":
            dropped = set(names) - used
        elif self._target.arrive == "standalone":
            pass
        else:
            noted = present.get(LEFT_OVER)
            brought = set(noted.split("\n")) if noted else set()
            if not brought and ID not in present:
                brought = {nic.network for nic in nics} - {*self._target.networks}
            dropped = (brought & set(names)) - used
        if dropped:
            yield Change("left_over_networks", sorted(dropped), [], lambda: self._detach(dropped))

    def _detach(self, dropped: set[str]) -> None:
        section = self._vcd.api("GET", self._networks_href, what="reading the vApp's networks")
        unused = dropped & set(xml.read_vapp_networks(section))
        if not self._target.own_vapp:
            vapp = self._vcd.read(xml.read_vapp, self._vapp.href, what="reading the vApp")
            for vm in vapp.vms:
                href = f"{vm.href}/networkConnectionSection/"
                nics = self._vcd.read(xml.read_nics, href, what="reading the network connections")
                unused -= {nic.network for nic in nics}
        if unused:
            body = bodies.change_vapp_networks(section, drop=unused)
            self._put(self._networks_href, "removing left-over networks", bodies.MEDIA_NETWORK_CONFIG, body)

    # -- settings of the VM

    def _customization(self) -> Iterable[Change]:
        href = f"{self._vm.href}/guestCustomizationSection/"
        enabled, name = self._vcd.read(xml.read_customization, href, what="reading the guest customization")
        wanted = computer_name(self._migration)
        if enabled or name != wanted:
            body = bodies.customization_off(wanted)
            yield Change(
                "guest_customization",
                {"enabled": enabled, "computer_name": name},
                {"enabled": False, "computer_name": wanted},
                lambda: self._put(href, "turning guest customization off", bodies.MEDIA_CUSTOMIZATION, body),
            )

    def _settings(self) -> Iterable[Change]:
        """Name, description and storage profiles, in one request."""
        vm = self._vm
        name = vcd_name(self._migration["name"])
        wish = self._migration["destination"].get("description")
        description = vm.description if wish is None else wish
        profile = self._target.storage_profile
        before: dict[str, t.Any] = {}
        after: dict[str, t.Any] = {}
        if vm.name != name:
            before["name"], after["name"] = vm.name, name
        if vm.description != description:
            before["description"], after["description"] = vm.description, description
        moved = None
        if profile is not None and not same_entity(vm.storage_profile_href, profile.href):
            before["storage_profile"], after["storage_profile"] = vm.storage_profile, profile.name
            moved = profile.href
        disks = self._disks_elsewhere(moved or vm.storage_profile_href)
        if disks:
            known = {entity_id(one.href): one.name for one in self._target.vdc.storage_profiles}
            profiles = {disk.id: known.get(entity_id(disk.storage_profile or "")) for disk in vm.disks}
            before["disks"] = {key: profiles.get(key) for key in disks}
            after["disks"] = {key: known.get(entity_id(href)) for key, href in disks.items()}
        if not after:
            return

        def change() -> None:
            body = self._vcd.api("GET", vm.href, what="reading the VM")
            body = bodies.reconfigure(
                body, name=name, description=description, storage_profile=moved, disks=disks or None
            )
            self._put(
                f"{vm.href}/action/reconfigureVm", "setting name and storage", bodies.MEDIA_VM, body, method="POST"
            )

        yield Change("settings", before, after, change)

    def _disks_elsewhere(self, vm_profile: str | None) -> dict[str, str]:
        """Disk id -> href of the storage profile that it should have and has not."""
        found = {}
        by_key = {disk.id: disk for disk in self._vm.disks}
        for index, profile in self._target.disks.items():
            if index < len(self._disk_keys):
                disk = by_key.get(self._disk_keys[index])
            else:
                disk = self._vm.disks[index] if index < len(self._vm.disks) else None
            if disk is None:
                raise VcdError(
                    f"disk {index} of VM {self._vm.name!r} is not among the disks that VCD shows: "
                    f"{', '.join(by_key) or 'none'}"
                )
            if not same_entity(disk.storage_profile or vm_profile, profile.href):
                found[disk.id] = profile.href
        return found

    def _description(self) -> Iterable[Change]:
        wanted = self._migration["destination"].get("description")
        if wanted is None or self._vapp.description == wanted:
            return
        body = bodies.describe_vapp(self._vapp.name, wanted)
        yield Change(
            "vapp_description",
            self._vapp.description,
            wanted,
            lambda: self._put(self._vapp.href, "describing the vApp", bodies.MEDIA_VAPP, body),
        )

    # -- owner and power

    def _owner(self, owner: xml.Reference) -> Iterable[Change]:
        """Of a vApp of its own; of one for several VMs that was made here as long as it has none."""
        current = self._vapp.owner
        if not self._target.own_vapp and not (self._made_here and current is not None and current.name == "system"):
            return
        if current is None or not same_entity(current.href, owner.href):
            body = bodies.owner(owner.href)
            yield Change(
                "owner",
                current.name if current else None,
                owner.name,
                lambda: self._put(f"{self._vapp.href}/owner", "setting the owner", bodies.MEDIA_OWNER, body),
            )

    def _power_on(self) -> None:
        """Start the VM, and see that it runs: the task may end before the VM does what it says."""
        what = f"powering on VM {self._vm.name!r}"
        try:
            self._vcd.run(
                "POST",
                f"{self._vm.href}/power/action/powerOn",
                what=what,
                timeout=self._timeout,
                repeatable=True,
            )
        except VcdError:
            # refused because it runs: an earlier request was done, and its answer lost
            if self._status().status != xml.STATUS_POWERED_ON:
                raise
        deadline = self._clock() + min(POWER_TIMEOUT, self._timeout)
        while (vm := self._status()).status != xml.STATUS_POWERED_ON:
            if vm.status == xml.STATUS_WAITING_FOR_INPUT:
                raise VcdError(f"{what}: it waits for an answer to a question of vCenter: {self._question()}")
            if self._clock() > deadline:
                raise VcdError(f"{what}: the task has ended, but the VM is '{vm.status_name}'")
            self._sleep(POWER_PAUSE)

    def _status(self) -> xml.Vm:
        return self._vcd.read(xml.read_vm, self._vm.href, what="reading the VM")

    def _question(self) -> str:
        with contextlib.suppress(VcdError):
            question = self._vcd.read_or_none(
                xml.read_question, f"{self._vm.href}/question", what="reading the VM's question"
            )
            if question:
                return question
        return "VCD does not say which"


__all__ = ["METADATA_ID", "Change", "Configurator", "comparable", "computer_name", "shown", "wanted_nics"]
