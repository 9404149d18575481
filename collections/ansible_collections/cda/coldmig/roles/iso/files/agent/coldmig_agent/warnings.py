# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a person may be told before the copy: one catalogue of codes, sentences and what to do.

Codes are part of the interface: templates and tenants accept them by name, so they stay as they are once released.
docs/warnings.md lists them; a test compares both.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass

from coldmig_agent.machine import Notice
from coldmig_agent.text import clean

INFO, WARNING, BLOCK = "info", "warning", "block"
SEVERITIES = (INFO, WARNING, BLOCK)
MAX_FIELD = 400
MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of notice. ``severities``: the usual one first, then those that a case may have instead."""

    severities: tuple[str, ...]
    sentence: str
    action: str

    @property
    def fields(self) -> frozenset[str]:
        """Names of the values that the sentence wants."""
        return frozenset(name for _text, name, _format, _how in string.Formatter().parse(self.sentence) if name)


def _entry(severities: str, sentence: str, action: str = "") -> Entry:
    return Entry(tuple(severities.split("/")), sentence, action)


#: ``{place}`` is a volume or disk as a person finds it: ``disk 0, partition 2 (/dev/sda)``, ``LVM volume vg/root``.
CATALOGUE: Mapping[str, Entry] = {
    # --- keys that stay behind
    "bitlocker-clear-key": _entry(
        "info",
        "{place} is a BitLocker volume whose protection is suspended (its key lies on it in clear): it boots anywhere",
        "Resume BitLocker after the migration.",
    ),
    "bitlocker-recovery-key": _entry(
        "warning",
        "{place} is encrypted with BitLocker (protectors: {protectors}): the new machine will ask for {key}",
        "Have it at hand, or suspend BitLocker first: manage-bde -protectors -disable C: -RebootCount 0, then shut "
        "down with shutdown /s /f /t 0 and boot this ISO again.",
    ),
    "bitlocker-tpm-only": _entry(
        "block",
        "{place} is encrypted with BitLocker and only this machine's TPM opens it (protectors: {protectors}): the copy "
        "could never be opened",
        "In Windows, add a recovery key (manage-bde -protectors -add C: -RecoveryPassword) and write it down, or "
        "suspend BitLocker; then boot this ISO again.",
    ),
    "bitlocker-unreadable": _entry(
        "warning",
        "{place} is encrypted with BitLocker, but what protects its key could not be read: {reason}",
        "Have its 48-digit recovery key at hand, or suspend BitLocker before you migrate.",
    ),
    "encrypted-bitlocker": _entry(
        "warning",
        "{place} is encrypted with BitLocker and is copied as it is",
        "Have its 48-digit recovery key at hand, or suspend BitLocker before you migrate.",
    ),
    "encrypted-luks": _entry(
        "warning",
        "{place} is encrypted with LUKS ({how}) and is copied as it is; what it holds was not looked at",
        "Have its passphrase or key file at hand: the new machine asks for it as this one does.",
    ),
    "luks-network-token": _entry(
        "warning",
        "{place} is unlocked by a server in the network ({token}); the new machine must reach it at boot",
        "See to it that the destination network reaches that server, and have a passphrase at hand.",
    ),
    "luks-tpm-token": _entry(
        "warning/block",
        "{place} is unlocked by this machine's TPM ({token}), which stays behind; {other}",
        "Have a passphrase or recovery key that opens it (check with cryptsetup open --test-passphrase); add one with "
        "cryptsetup luksAddKey where there is none.",
    ),
    "luks-device-token": _entry(
        "warning/block",
        "{place} is unlocked by a device in the operator's hand ({token}); {other}",
        "Have a passphrase that opens it; a security key or smart card can hardly be used at a virtual machine's boot.",
    ),
    "luks-unreadable": _entry(
        "warning",
        "{place} is encrypted with LUKS, but its header cannot be understood: {reason}",
        "Check it with cryptsetup luksDump on the source before you migrate.",
    ),
    "detached-luks-header": _entry(
        "warning",
        "{place} is encrypted with its header elsewhere ({header}); the header is copied only if it lies on these "
        "disks",
        "See to it that the device with the header reaches the new machine, or that it is one of the disks here.",
    ),
    "tpm-encrypted": _entry(
        "warning",
        "this machine has a TPM {version} and encrypted volumes: a key sealed in the TPM will not be there at the "
        "destination",
        "Have the recovery key or passphrase before you go on.",
    ),
    "tpm-present": _entry(
        "info",
        "this machine has a TPM {version}: keys sealed in it (sign-in with a PIN, certificates) will not be there at "
        "the destination",
        "Sign in with a password after the migration, and enrol such keys again.",
    ),
    "tpm-sealed": _entry(
        "block",
        "a key of {place} is sealed in this machine's TPM ({how}) and nothing else was found that opens it",
        "Make a recovery key or add a passphrase on the source, then boot this ISO again.",
    ),
    # --- state in which the source was left
    "hibernated": _entry(
        "warning",
        "{place} holds the memory image of a sleeping {system}: it would wake up on other hardware",
        "Start the machine and shut it down properly (Windows: shutdown /s /f /t 0), then boot this ISO again.",
    ),
    "windows-fast-startup": _entry(
        "warning/info",
        "Windows on {place} has Fast Startup enabled: after an ordinary shutdown its kernel only sleeps on the disk",
        "Shut Windows down with shutdown /s /f /t 0, or switch Fast Startup off, then boot this ISO again.",
    ),
    "unclean-filesystem": _entry(
        "warning",
        "{place} ({fstype}) was not left cleanly ({reason}): it is copied whole, its free space too, and recovers "
        "when it boots",
        "To copy less, start the machine, shut it down properly (Windows: shutdown /s /f /t 0), then boot this ISO "
        "again.",
    ),
    "partition-table-damaged": _entry(
        "warning",
        "{place}: the primary partition table is damaged, the backup at the end of the disk was used",
        "Repair it on the source (gdisk: v, then w), or check the new machine's first boot.",
    ),
    # --- whether the new machine boots
    "no-storage-driver": _entry(
        "warning",
        "{system} can load no driver for VMware's disk controllers at boot ({reason}): it will not find its disk",
        "On the source, rebuild the initramfs with vmw_pvscsi and ahci (dracut -f --add-drivers, update-initramfs), "
        "or boot its rescue entry at the destination.",
    ),
    "storage-driver-likely": _entry(
        "info",
        "{system} should find its disk through {devices}, but that is not proven ({reason})",
        "Check its first boot at the destination before you retire the source.",
    ),
    "windows-no-boot-driver": _entry(
        "warning",
        "{system} starts no driver for VMware's disk controllers at boot ({reason}): it will not find its disk",
        "On the source, set Start to 0 for storahci (or LSI_SAS) under HKLM\\SYSTEM\\CurrentControlSet\\Services and "
        "remove its StartOverride, or install VMware Tools for pvscsi.",
    ),
    "no-network-driver": _entry(
        "warning",
        "{system} has no driver for VMware's network cards ({reason}): it will boot without network",
        "Install VMware Tools or the driver vmxnet3 or e1000e, before or after the migration.",
    ),
    "disk-filter-missing": _entry(
        "warning",
        "{system} wants filter drivers for its disks that it cannot load: {filters}",
        "Remove them from UpperFilters or LowerFilters of the class in the registry if the system does not start.",
    ),
    "san-policy": _entry(
        "info",
        "{system} leaves disks offline that it sees for the first time (SanPolicy {policy}): all but the one that it "
        "starts from may not be there after the migration",
        "Set them online once in Disk Management, or diskpart: san policy=OnlineAll on the source.",
    ),
    "boot-files-not-found": _entry(
        "warning",
        "no boot files of {system} were found: which drivers it can load at boot is not known",
        "Check its first boot at the destination before you retire the source.",
    ),
    "initramfs-incomplete": _entry(
        "warning",
        "the initramfs of {system} could not be read to its end ({reason}): it may not boot here either",
        "Rebuild it on the source and boot this ISO again.",
    ),
    "efi-fallback-missing": _entry(
        "warning",
        "{place} has no \\EFI\\BOOT\\{loader}: a new machine has no boot entries and finds no loader (it has {found})",
        "Copy the system's loader to \\EFI\\BOOT on the source (grub-install --removable), or make the boot entry in "
        "the new machine's firmware setup.",
    ),
    "firmware-conflict": _entry(
        "warning",
        "these disks can be started with BIOS and with UEFI ({bios}; {efi}): the new machine gets {chosen}",
        "If it does not start, set hardware.firmware in the template and migrate again, or change it in the new "
        "machine's settings.",
    ),
    "firmware-mismatch": _entry(
        "info",
        "the ISO was booted with {live}, but these disks start with {chosen}: the new machine gets {chosen}",
    ),
    "secure-boot": _entry(
        "info",
        "this machine has Secure Boot enabled",
        "Drivers or kernels signed with a key of this machine's own need that key enrolled in the new one.",
    ),
    # --- names that will change
    "root-device-name": _entry(
        "warning",
        "{system} looks for its root under a name that its disk will not have at the destination ({name}), and will "
        "not start",
        "On the source, name it by UUID in the boot menu (root=UUID=…; blkid shows it) and boot this ISO again.",
    ),
    "old-device-names": _entry(
        "warning",
        "{system} names disks that have other names at the destination: {names}",
        "Use UUID= or LABEL= in these places on the source.",
    ),
    "lvm-devices-file": _entry(
        "warning",
        "{system} lists its LVM disks by identity ({names}): LVM will not find them at the destination",
        "Empty or remove /etc/lvm/devices/system.devices on the source (or lvmdevices --deldev) and rebuild the "
        "initramfs.",
    ),
    "nic-names-bound": _entry(
        "warning",
        "{system} binds its network configuration to names or hardware that change: {names}",
        "Bind it to the MAC addresses, which the new machine keeps, or have its console at hand.",
    ),
    "multipath-claims-all": _entry(
        "info",
        "{system} lets multipath take every disk ({setting}): its disks may have other names at the destination",
        "Remove or adapt its multipath settings after the migration.",
    ),
    "nic-management": _entry(
        "info",
        "interface {name} ({driver}) looks like a management controller's; the new machine hardly needs it",
        "Leave it out of the mapping of networks.",
    ),
    "nic-virtual-function": _entry(
        "info",
        "interface {name} is a virtual function (SR-IOV) of {parent}",
        "Leave it out of the mapping of networks unless the system uses it.",
    ),
    # --- disks and what combines them
    "disk-4k-sectors": _entry(
        "block/warning",
        "{place} has 4096-byte sectors; a VMware disk has 512, so {what} will not be found there",
        "Move the data to a disk with 512-byte (or 512e) sectors on the source first.",
    ),
    "disk-multipath": _entry(
        "info",
        "{place} is reached by {count} paths ({paths}): it is copied once",
        "Remove or adapt multipath settings of the system after the migration.",
    ),
    "disk-removable": _entry(
        "warning",
        "{place} is a {kind} device of {size}: it counts as one of this machine's disks and is copied",
        "Unplug it and boot this ISO again if it does not belong to the system.",
    ),
    "fake-raid": _entry(
        "block",
        "{place} belongs to a RAID set of the mainboard ({format}): each member alone is no usable disk",
        "Migrate from within the running system, or rebuild it on a disk or software RAID that needs no such firmware; "
        "accept this only where the set is a mirror and one member is enough.",
    ),
    "dynamic-disks": _entry(
        "warning",
        "{place} is a Windows dynamic disk ({how}): it is copied whole, its volumes were not looked at",
        "See to it that all disks of the group are migrated together.",
    ),
    "storage-spaces": _entry(
        "warning",
        "{place} belongs to Windows Storage Spaces: it is copied whole, nothing in it was looked at",
        "See to it that all disks of the pool are migrated together.",
    ),
    "zfs-pool": _entry(
        "warning",
        "{place} belongs to the ZFS pool {pool}{host}: it is copied whole, nothing in it was looked at",
        "See to it that all disks of the pool are migrated together; the pool may have to be imported with -f.",
    ),
    "bcache": _entry(
        "warning",
        "{place} is {role} of bcache: the newest data may be on the other device",
        "Migrate cache and backing device together, or detach the cache on the source first.",
    ),
    "lvm-cache": _entry(
        "warning",
        "LVM volume {place} is kept with {how}: it was not looked at{why}",
        "See to it that all its disks are migrated together; LVM cache is detached with lvconvert --uncache.",
    ),
    "raid-degraded": _entry(
        "warning",
        "{place} is degraded, {missing} of its {members} members do not belong to it any more: the copy is so, too",
        "Replace the missing disk on the source first, or add one to the array after the migration.",
    ),
    "volume-group-incomplete": _entry(
        "warning",
        "LVM volume group {group} lacks {missing} of its physical volumes: what lies on them is not there",
        "See to it that all its disks are in the machine, and boot this ISO again.",
    ),
    # --- what was seen and what was not
    "several-systems": _entry(
        "warning",
        "{count} operating systems were found; {chosen} is taken, the others are: {others}",
        "Choose another one with system in the template or in the migration, if that is wrong.",
    ),
    "guest-not-found": _entry(
        "warning",
        "no operating system was found; the disks hold: {seen}",
        "They are copied as they are. Set guest_id and the other hardware in the template.",
    ),
    "guest-not-inspected": _entry(
        "warning",
        "the disks look like {system}; its version and computer name could not be seen",
        "Set guest_id and the other hardware in the template if the nearest choice does not do.",
    ),
    "volume-not-inspected": _entry(
        "info",
        "{place} belongs to {kind}: it is copied, but nothing in it was looked at",
    ),
    "volume-not-readable": _entry(
        "warning",
        "{place} ({fstype}) could not be looked into: {reason}",
        "It is copied as it is. Check the file system on the source if that is unexpected.",
    ),
    "registry-not-read": _entry(
        "warning",
        "the registry of Windows on {place} could not be read: {problem}",
        "Check with chkdsk and a start of Windows on the source; set guest_id and the other hardware in the template.",
    ),
    "registry-not-replayed": _entry(
        "warning",
        "the registry hive {hive} of Windows on {place} was read without its newest changes: {problem}",
        "Start Windows and shut it down properly, then boot this ISO again, if what is said of it here looks old.",
    ),
    "inspection-failed": _entry(
        "warning",
        "looking into the disks ended early: {reason}; what was found until then counts",
        "The disks are copied as they are. Set guest_id and the other hardware in the template.",
    ),
    "runs-from-medium": _entry(
        "warning",
        "this machine has too little memory to hold the live system, which runs from the medium in {device}",
        "Leave the medium connected until the copy is complete: without it the copy stops, and goes on when this ISO "
        "is booted again.",
    ),
}


def notice(code: str, severity: str | None = None, /, **fields: object) -> Notice:
    """A notice of the catalogue with its values. Raises KeyError for an unknown code, ValueError for other fields.

    The values come from disks and firmware: they are cleaned and cut here.
    """
    entry = CATALOGUE[code]
    if fields.keys() != entry.fields:
        wanted = ", ".join(sorted(entry.fields)) or "none"
        raise ValueError(f"{code}: got the fields {', '.join(sorted(fields)) or 'none'}, wants {wanted}")
    if severity is not None and severity not in entry.severities:
        raise ValueError(f"{code}: severity {severity!r} is none of {', '.join(entry.severities)}")
    values = {name: clean(str(value), MAX_FIELD) for name, value in fields.items()}
    message = clean(entry.sentence.format_map(values), MAX_MESSAGE)
    return Notice(code, message, severity or entry.severities[0], entry.action)
