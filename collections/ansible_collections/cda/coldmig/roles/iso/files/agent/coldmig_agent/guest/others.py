# SPDX-License-Identifier: GPL-3.0-or-later
"""Systems whose file systems are not looked into, named by the types of their partitions and by signatures.

A type only says what the partition was made for. The BSDs are named by it; anything else stays ``unknown``, with what
was seen in its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coldmig_agent.machine import Guest
from coldmig_agent.text import clean

FREEBSD, NETBSD, OPENBSD, UNKNOWN = "freebsd", "netbsd", "openbsd", "unknown"
#: Types of partitions that hold a system or its data, after the tables of the FreeBSD, NetBSD and Linux projects.
_TYPES: dict[str, tuple[str, str]] = {
    # MBR
    "0xa5": (FREEBSD, "FreeBSD"),
    "0xa6": (OPENBSD, "OpenBSD"),
    "0xa9": (NETBSD, "NetBSD"),
    "0x6c": (UNKNOWN, "DragonFly BSD"),
    "0x9f": (UNKNOWN, "BSD/OS"),
    "0xa8": (UNKNOWN, "macOS"),
    "0xab": (UNKNOWN, "macOS"),
    "0xaf": (UNKNOWN, "macOS"),
    "0xbe": (UNKNOWN, "Solaris"),
    "0xbf": (UNKNOWN, "Solaris"),
    "0xfb": (UNKNOWN, "VMware ESXi"),
    "0xfc": (UNKNOWN, "VMware ESXi"),
    "0x63": (UNKNOWN, "UNIX System V"),
    "0x64": (UNKNOWN, "NetWare"),
    "0x65": (UNKNOWN, "NetWare"),
    "0x4d": (UNKNOWN, "QNX"),
    "0x4e": (UNKNOWN, "QNX"),
    "0x4f": (UNKNOWN, "QNX"),
    "0xb3": (UNKNOWN, "QNX"),
    "0x39": (UNKNOWN, "Plan 9"),
    "0x81": (UNKNOWN, "Minix"),
    "0xeb": (UNKNOWN, "Haiku or BeOS"),
    # GPT
    "516e7cb4-6ecf-11d6-8ff8-00022d09712b": (FREEBSD, "FreeBSD"),
    "516e7cb5-6ecf-11d6-8ff8-00022d09712b": (FREEBSD, "FreeBSD"),
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": (FREEBSD, "FreeBSD"),
    "516e7cb8-6ecf-11d6-8ff8-00022d09712b": (FREEBSD, "FreeBSD"),
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": (FREEBSD, "FreeBSD"),
    "83bd6b9d-7f41-11dc-be0b-001560b84f0f": (FREEBSD, "FreeBSD"),
    "49f48d32-b10e-11dc-b99b-0019d1879648": (NETBSD, "NetBSD"),
    "49f48d5a-b10e-11dc-b99b-0019d1879648": (NETBSD, "NetBSD"),
    "49f48d82-b10e-11dc-b99b-0019d1879648": (NETBSD, "NetBSD"),
    "49f48daa-b10e-11dc-b99b-0019d1879648": (NETBSD, "NetBSD"),
    "824cc7a0-36a8-11e3-890a-952519ad3f61": (OPENBSD, "OpenBSD"),
    "9d087404-1ca5-11dc-8817-01301bb8a9f5": (UNKNOWN, "DragonFly BSD"),
    "9d58fdbd-1ca5-11dc-8817-01301bb8a9f5": (UNKNOWN, "DragonFly BSD"),
    "61dc63ac-6e38-11dc-8513-01301bb8a9f5": (UNKNOWN, "DragonFly BSD"),
    "5cbb9ad1-862d-11dc-a94d-01301bb8a9f5": (UNKNOWN, "DragonFly BSD"),
    "6a82cb45-1dd2-11b2-99a6-080020736631": (UNKNOWN, "Solaris"),
    "6a85cf4d-1dd2-11b2-99a6-080020736631": (UNKNOWN, "Solaris"),
    "6a898cc3-1dd2-11b2-99a6-080020736631": (UNKNOWN, "Solaris or ZFS"),
    "48465300-0000-11aa-aa11-00306543ecac": (UNKNOWN, "macOS"),
    "55465300-0000-11aa-aa11-00306543ecac": (UNKNOWN, "macOS"),
    "7c3457ef-0000-11aa-aa11-00306543ecac": (UNKNOWN, "macOS"),
    "53746f72-6167-11aa-aa11-00306543ecac": (UNKNOWN, "macOS"),
    "426f6f74-0000-11aa-aa11-00306543ecac": (UNKNOWN, "macOS"),
    "aa31e02a-400f-11db-9590-000c2911d1b8": (UNKNOWN, "VMware ESXi"),
    "9d275380-40ad-11db-bf97-000c2911d1b8": (UNKNOWN, "VMware ESXi"),
    "9198effc-31c0-11db-8f78-000c2911d1b8": (UNKNOWN, "VMware ESXi"),
    "4eb2ea39-7855-4790-a79e-fae495e21f8d": (UNKNOWN, "VMware ESXi"),
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": (UNKNOWN, "ChromeOS"),
    "42465331-3ba3-10f1-802a-4861696b7521": (UNKNOWN, "Haiku"),
    "cef5a9ad-73bc-4601-89f3-cdeeeee321a1": (UNKNOWN, "QNX"),
}
#: Contents that no Linux or Windows here was found on, by the signature in their place.
_CONTENTS: dict[str, tuple[str, str]] = {
    "zfs_member": (UNKNOWN, "ZFS"),
    "ufs": (UNKNOWN, "UFS (a BSD or Solaris)"),
    "VMFS_volume_member": (UNKNOWN, "VMware ESXi"),
    "hfsplus": (UNKNOWN, "macOS"),
    "apfs": (UNKNOWN, "macOS"),
}
#: Of these: swap, boot code, crash dumps. The system itself is elsewhere.
_SMALL = frozenset(
    {
        "516e7cb5-6ecf-11d6-8ff8-00022d09712b",
        "83bd6b9d-7f41-11dc-be0b-001560b84f0f",
        "49f48d32-b10e-11dc-b99b-0019d1879648",
        "9d58fdbd-1ca5-11dc-8817-01301bb8a9f5",
        "6a82cb45-1dd2-11b2-99a6-080020736631",
        "426f6f74-0000-11aa-aa11-00306543ecac",
        "9d275380-40ad-11db-bf97-000c2911d1b8",
        "9198effc-31c0-11db-8f78-000c2911d1b8",
        "0xfc",
    }
)
_RANK = (FREEBSD, NETBSD, OPENBSD, UNKNOWN)
_MAX_SEEN = 6


@dataclass(frozen=True, slots=True)
class Part:
    """A partition: ``type`` and ``fstype`` as in Partition; ``label`` is that of its content (a ZFS pool's name)."""

    place: str
    key: str
    type: str
    fstype: str
    label: str = ""


def other_systems(parts: Sequence[Part]) -> tuple[Guest, ...]:
    """One guest for each kind of system that partition types or signatures tell of, the BSDs first.

    It stands at the partition that says most: one with known content, else one whose type is that of a system.
    """
    claims: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        claim = _TYPES.get(part.type.lower()) or _CONTENTS.get(part.fstype)
        if claim is not None:
            claims.setdefault(claim, []).append(part)
    return tuple(
        _guest(os_type, name, claims[os_type, name])
        for os_type, name in sorted(claims, key=lambda claim: (_RANK.index(claim[0]), claim[1]))
    )


def _guest(os_type: str, name: str, parts: Sequence[Part]) -> Guest:
    best = max(parts, key=lambda part: (part.fstype in _CONTENTS, part.type.lower() not in _SMALL))
    seen = dict.fromkeys(_seen(part) for part in parts)
    details = clean("; ".join(list(seen)[:_MAX_SEEN]), 160)
    known = os_type != UNKNOWN
    return Guest(
        os_type=os_type,
        id=os_type if known else "",
        pretty_name=f"{name} (version not seen; {details})" if known else f"unknown, looks like {name} ({details})",
        key=best.key,
        place=best.place,
    )


def _seen(part: Part) -> str:
    what = part.fstype or f"partition type {part.type}"
    return f'{what} "{part.label}"' if part.label else what
