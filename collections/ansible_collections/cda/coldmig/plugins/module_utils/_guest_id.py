# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest identifiers of vSphere for what the agent found. Pure: no connection, no file, no AnsibleModule.

PRIVATE to the collection. Identifiers are those of ``vim.vm.GuestOsDescriptor.GuestOsIdentifier``. One that the host
does not offer is refused by vCenter at creation, while a near one boots; hence the ladders: nearest lower release of
the same family, then the generic identifier of the kernel's series, then "other".
"""

from __future__ import annotations

import re
import typing as t
from collections.abc import Iterable, Iterator, Mapping, Sequence

Guest = Mapping[str, t.Any]

# --- Linux --------------------------------------------------------------------------------------------------------

_RHEL = {major: f"rhel{major}_64Guest" for major in range(3, 11)}
_LADDERS: t.Final[dict[str, dict[int, str]]] = {
    "debian": {major: f"debian{major}_64Guest" for major in range(4, 14)},
    "rhel": _RHEL,
    # CentOS 10 has no identifier of its own
    "centos": {
        4: "centos64Guest",
        5: "centos64Guest",
        **{n: f"centos{n}_64Guest" for n in range(6, 10)},
        10: _RHEL[10],
    },
    "ol": {4: "oracleLinux64Guest", 5: "oracleLinux64Guest", **{n: f"oracleLinux{n}_64Guest" for n in range(6, 11)}},
    "sles": {9: "sles64Guest", **{n: f"sles{n}_64Guest" for n in (10, 11, 12, 15, 16)}},
    "amzn": {2: "amazonlinux2_64Guest", 2023: "amazonlinux3_64Guest"},
    "asianux": {n: f"asianux{n}_64Guest" for n in (3, 4, 5, 7, 8, 9)},
    "freebsd": {1: "freebsd64Guest", **{n: f"freebsd{n}_64Guest" for n in range(11, 16)}},
}
_KERNEL_LADDER: t.Final = {24: "other24xLinux64Guest", 26: "other26xLinux64Guest"} | {
    major * 10: f"other{major}xLinux64Guest" for major in range(3, 8)
}
_LAST_RESORT: t.Final = ("otherLinux64Guest", "otherGuest64")
_NEWEST_DEBIAN_KNOWN_EVERYWHERE = 12
#: Numbers above it are Fedora's where a system calls itself like both.
_NEWEST_RHEL = 10

#: identifiers without a version, best first; "rhel" continues on the ladder of Red Hat's major version
_FIXED: t.Final[dict[str, tuple[str, ...]]] = {
    "ubuntu": ("ubuntu64Guest",),
    "fedora": ("fedora64Guest",),
    "opensuse": ("opensuse64Guest",),
    "photon": ("vmwarePhoton64Guest",),
    "coreos": ("coreos64Guest",),
    "flatcar": ("flatcar_64Guest", "coreos64Guest"),
    "pardus": ("pardus_64Guest",),
    "kylin": ("kylinlinux_64Guest",),
}
_CLONES: t.Final[dict[str, tuple[str, ...]]] = {
    "rocky": ("rockylinux_64Guest",),
    "almalinux": ("almalinux_64Guest",),
    "miraclelinux": ("miraclelinux_64Guest",),
}
#: os-release ID -> family, where the two differ
_FAMILY: t.Final[dict[str, str]] = (
    dict.fromkeys(("linuxmint", "elementary", "pop", "zorin", "neon", "tuxedo"), "ubuntu")
    | dict.fromkeys(
        ("scientific", "virtuozzo", "clearos", "xcp-ng", "xenenterprise", "eurolinux", "springdale"), "rhel"
    )
    | dict.fromkeys(("redhat", "redhatenterpriseserver", "cloudlinux", "circle", "navylinux"), "rhel")
    | dict.fromkeys(("nobara", "mageia", "ultramarine"), "fedora")
    | dict.fromkeys(("kali", "parrot", "raspbian", "devuan", "cumulus-linux", "proxmox", "pureos", "deepin"), "debian")
    | dict.fromkeys(("sled", "sles_sap", "sle_hpc", "sle-hpc", "sle-micro", "sl-micro", "suse-microos"), "sles")
    | {"oracle": "ol", "amazon": "amzn"}
)
_SLES_OF_MICRO = {5: 15, 6: 16}


def _major(version: str) -> int | None:
    match = re.match(r"\s*v?(\d{1,6})", version)
    return int(match.group(1)) if match else None


def _down_from(ladder: Mapping[int, str], top: int) -> Iterator[str]:
    """Identifiers of ``top`` and below, best first."""
    for major in sorted(ladder, reverse=True):
        if major <= top:
            yield ladder[major]


#: Words of ID_LIKE that say something, the most telling first.
_LIKE: t.Final = ("ubuntu", "rhel", "ol", "centos", "sles", "opensuse", "suse", "debian", "fedora", "amzn", "coreos")


def _family(guest: Guest, os_id: str, version: str) -> str:
    """The distribution whose identifiers fit, by ID, else PLATFORM_ID, else ID_LIKE; empty where none does."""
    if os_id.startswith("opensuse"):
        return "opensuse"
    family = _FAMILY.get(os_id, os_id)
    if family in _FIXED or family in _CLONES or family in _LADDERS:
        return family
    platform = str(guest.get("platform_id") or "").lower()
    if re.fullmatch(r"platform:el\d{1,2}", platform):
        return "rhel"
    if re.fullmatch(r"platform:f\d{1,3}", platform):
        return "fedora"
    words = {str(word).lower() for word in guest.get("id_like") or ()}
    like = next((word for word in _LIKE if word in words), "")
    if like in ("rhel", "centos"):
        return "fedora" if "fedora" in words and (_major(version) or 0) > _NEWEST_RHEL else "rhel"
    return {"suse": "opensuse"}.get(like, like)


def _debian_major(guest: Guest, os_id: str, version: str) -> int:
    """Debian's number: testing and unstable carry none, derivatives count their own releases."""
    major = _major(version)
    if os_id in ("debian", "raspbian"):
        stated = major
    elif os_id == "devuan":
        stated = major + 7 if major else None
    else:
        # The full release is what /etc/debian_version says, which derivatives keep.
        release = str(guest.get("release") or "")
        stated = _major(release) if release != version else None
    known = stated is not None and (os_id == "debian" or stated in _LADDERS["debian"])
    return stated if stated is not None and known else _NEWEST_DEBIAN_KNOWN_EVERYWHERE


def _family_major(guest: Guest, os_id: str, family: str, version: str) -> int | None:
    """The release number on the family's own scale."""
    if family == "debian":
        return _debian_major(guest, os_id, version)
    if os_id in ("sle-micro", "sl-micro", "suse-microos"):
        return _SLES_OF_MICRO.get(_major(version) or 0, 15)
    platform = re.fullmatch(r"platform:el(\d{1,2})", str(guest.get("platform_id") or "").lower())
    return int(platform.group(1)) if family == "rhel" and platform else _major(version)


def _kernel_ids(kernel: str | None) -> Iterator[str]:
    match = re.match(r"(\d{1,3})\.(\d{1,3})", kernel or "")
    if match:
        major, minor = int(match.group(1)), int(match.group(2))
        yield from _down_from(_KERNEL_LADDER, major * 10 + (min(minor, 9) if major == 2 else 0))


def _linux_ids(guest: Guest) -> Iterator[str]:
    os_id = str(guest.get("id") or "").strip().lower()
    version = str(guest.get("version") or "")
    family = _family(guest, os_id, version)
    major = _family_major(guest, os_id, family, version)
    if family in _FIXED:
        yield from _FIXED[family]
    elif family in _CLONES:
        yield from _CLONES[family]
        yield from _down_from(_LADDERS["rhel"], major or 0)
    elif family in _LADDERS and major is not None:
        yield from _down_from(_LADDERS[family], major)
    yield from _kernel_ids(guest.get("kernel"))
    yield from _LAST_RESORT


# --- Windows ------------------------------------------------------------------------------------------------------

#: (least version and build, identifiers), newest first. Windows is known by its build: product names lie (Windows 11
#: calls itself 10 in its registry, three releases are called 21H2).
_WINDOWS_CLIENTS: t.Final = (
    ((10, 0, 22000), "windows11_64Guest"),
    ((10, 0, 0), "windows9_64Guest"),
    ((6, 2, 0), "windows8_64Guest"),
    ((6, 1, 0), "windows7_64Guest"),
    ((6, 0, 0), "winVista64Guest"),
    ((5, 2, 0), "winXPPro64Guest"),
    ((5, 1, 0), "winXPProGuest"),
    ((5, 0, 0), "win2000ProGuest"),
)
_WINDOWS_SERVERS: t.Final = (
    ((10, 0, 26100), "windows2022srvNext_64Guest"),
    ((10, 0, 20348), "windows2019srvNext_64Guest"),
    ((10, 0, 17763), "windows2019srv_64Guest"),
    ((10, 0, 0), "windows9Server64Guest"),
    ((6, 2, 0), "windows8Server64Guest"),
    ((6, 1, 0), "windows7Server64Guest"),
    ((6, 0, 0), "winLonghorn64Guest"),
    ((5, 2, 0), "winNet{edition}64Guest"),
    ((5, 0, 0), "win2000{edition}Guest"),
)
_EDITIONS_2003: t.Final = ("Datacenter", "Enterprise", "Standard")
_EDITIONS_2003_32_BIT: t.Final = {
    "Web": "winNetWebGuest",
    "SBS": "winNetBusinessGuest",
    "Small Business": "winNetBusinessGuest",
}


def _is_server(guest: Guest, words: str) -> bool:
    if str(guest.get("edition") or "").lower() == "serverrdsh":
        return False  # multi-session Windows 10 and 11: a client that says ServerNT
    product_type = str(guest.get("product_type") or "")
    return product_type != "WinNT" if product_type else "server" in words.lower()


def _windows_ids(guest: Guest) -> Iterator[str]:
    """By NT version and build (``10.0.20348``), product type, and for Windows 2000 and 2003 the edition."""
    words = " ".join(str(guest.get(key) or "") for key in ("pretty_name", "edition", "id"))
    numbers = [int(part) for part in re.findall(r"\d{1,6}", str(guest.get("version") or ""))[:3]]
    wanted = (*numbers, 0, 0)[:3] if numbers else (10, 0, 0)
    for least, guest_id in _WINDOWS_SERVERS if _is_server(guest, words) else _WINDOWS_CLIENTS:
        if wanted < least:
            continue
        if guest_id.startswith("winNet"):
            if wanted[:2] == (5, 2):
                yield from (name for word, name in _EDITIONS_2003_32_BIT.items() if word in words)
            edition = next((name for name in _EDITIONS_2003 if name in words), "Standard")
            yield from (guest_id.format(edition=name) for name in dict.fromkeys((edition, "Enterprise")))
        elif guest_id.startswith("win2000{"):
            yield guest_id.format(edition="AdvServ" if "Advanced" in words or "Enterprise" in words else "Serv")
        else:
            yield guest_id


# --- all ----------------------------------------------------------------------------------------------------------

_ONLY_64_BIT: t.Final = re.compile(
    r"(?:rhel|centos|oracleLinux)(?:[89]|10)_|sles1[56]_|asianux[5-9]_|amazonlinux|rockylinux|almalinux|miraclelinux|pardus|"
    r"kylinlinux|flatcar|coreos|vmwarePhoton|windows11|windows20|windows[789]Server"
)


def _in_32_bit(guest_ids: Iterable[str]) -> Iterator[str]:
    for guest_id in guest_ids:
        if not _ONLY_64_BIT.match(guest_id):
            yield {"winXPPro64Guest": "winXPProGuest"}.get(guest_id) or re.sub(r"_?64", "", guest_id)


def guest_id_candidates(guest: Guest) -> list[str]:
    """Identifiers for a system that the agent found, best first, never empty, each once."""
    os_type = guest.get("os_type")
    os_id = str(guest.get("id") or "").strip().lower()
    found: Iterable[str] = ()
    if os_type == "windows":
        found = _windows_ids(guest)
    elif os_type == "linux":
        found = _linux_ids(guest)
    elif "freebsd" in (os_type, os_id):
        found = _down_from(_LADDERS["freebsd"], _major(str(guest.get("version") or "")) or 1)
    found = [*found, "otherGuest64"]
    if guest.get("arch") == "i386":
        found = _in_32_bit(found)
    return list(dict.fromkeys(found))


#: Since which vSphere API an identifier exists, of those that came after 6.5. For servers that do not list what they
#: offer.
_SINCE: t.Final = tuple(
    (re.compile(pattern), version)
    for pattern, version in (
        (r"flatcar_", (9, 1)),
        (r"(?:rhel|oracleLinux)10_|debian13|other7x|freebsd15|miraclelinux|pardus|kylinlinux", (9, 0)),
        (r"debian12|other6x|rockylinux|almalinux|windows11|windows12|windows2022srvNext|freebsd14", (8, 0)),
        (
            r"other5x|(?:rhel|centos|oracleLinux)9_|sles16_|windows2019srvNext|amazonlinux3|freebsd13|asianux9_",
            (7, 0, 1),
        ),
        (r"windows2019srv_|debian11", (7, 0)),
        (r"(?:rhel|centos|oracleLinux|asianux)8_|sles15_|other4x|freebsd1[12]|amazonlinux2", (6, 7)),
    )
)


def known_since(guest_id: str) -> tuple[int, ...]:
    """The vSphere API version that brought an identifier; (6, 5) for all older ones."""
    return next((version for pattern, version in _SINCE if pattern.match(guest_id)), (6, 5))


def known_to(api_version: str, candidates: Sequence[str]) -> list[str]:
    """Those of ``candidates`` that a server of this API version (``8.0.2.0``) knows; all where none would be left."""
    server = tuple(int(part) for part in re.findall(r"\d{1,4}", api_version)[:4])
    return [item for item in candidates if not server or known_since(item) <= server] or list(candidates)
