# SPDX-License-Identifier: GPL-3.0-or-later
"""The name of a Windows for a person, by NT's version, its build and its product type.

ProductName is not believed: Windows 11 says "Windows 10" there, and editions are renamed in place. DisplayVersion is
only a label: "21H2" is Windows 10, Windows 11 and Server 2022.
"""

from __future__ import annotations

from coldmig_agent.guest.windows.model import VersionFacts

_CLIENTS = {
    (5, 0): "Windows 2000",
    (5, 1): "Windows XP",
    (5, 2): "Windows XP Professional x64",
    (6, 0): "Windows Vista",
    (6, 1): "Windows 7",
    (6, 2): "Windows 8",
    (6, 3): "Windows 8.1",
}
_SERVERS = {
    (5, 0): "Windows 2000 Server",
    (5, 2): "Windows Server 2003",
    (6, 0): "Windows Server 2008",
    (6, 1): "Windows Server 2008 R2",
    (6, 2): "Windows Server 2012",
    (6, 3): "Windows Server 2012 R2",
}
WINDOWS_11 = 22000
#: First build of each server since 10.0; those with "version" are of the channel with two releases a year.
_SERVER_BUILDS = (
    (26040, "Windows Server 2025"),
    (25398, "Windows Server, version 23H2"),
    (20348, "Windows Server 2022"),
    (19042, "Windows Server, version 20H2"),
    (19041, "Windows Server, version 2004"),
    (18363, "Windows Server, version 1909"),
    (18362, "Windows Server, version 1903"),
    (17763, "Windows Server 2019"),
    (17134, "Windows Server, version 1803"),
    (16299, "Windows Server, version 1709"),
    (0, "Windows Server 2016"),
)
#: EditionID of clients that run on a server's core, for many users at once.
MULTI_SESSION = "serverrdsh"
_EDITIONS = {
    "core": "Home",
    "coren": "Home N",
    "corecountryspecific": "Home China",
    "coresinglelanguage": "Home Single Language",
    "home": "Home Edition",
    "homebasic": "Home Basic",
    "homepremium": "Home Premium",
    "starter": "Starter",
    "ultimate": "Ultimate",
    "business": "Business",
    "professional": "Pro",
    "professionaln": "Pro N",
    "professionaleducation": "Pro Education",
    "professionalworkstation": "Pro for Workstations",
    "education": "Education",
    "enterprise": "Enterprise",
    "enterprisen": "Enterprise N",
    "enterpriseeval": "Enterprise Evaluation",
    "enterprises": "Enterprise LTSC",
    "enterprisesn": "Enterprise N LTSC",
    "enterpriseseval": "Enterprise LTSC Evaluation",
    "iotenterprise": "IoT Enterprise",
    "iotenterprises": "IoT Enterprise LTSC",
    MULTI_SESSION: "Enterprise multi-session",
    "serverstandard": "Standard",
    "serverstandardcor": "Standard",
    "serverstandardeval": "Standard Evaluation",
    "serverstandardacor": "Standard",
    "serverdatacenter": "Datacenter",
    "serverdatacentercor": "Datacenter",
    "serverdatacentereval": "Datacenter Evaluation",
    "serverdatacenteracor": "Datacenter",
    "serverturbine": "Datacenter: Azure Edition",
    "serverturbinecor": "Datacenter: Azure Edition",
    "serverenterprise": "Enterprise",
    "serverweb": "Web",
    "serversbs": "Small Business Server",
    "serverfoundation": "Foundation",
    "serverfoundationeval": "Foundation Evaluation",
    "serveressentials": "Essentials",
    "serversolution": "Essentials",
    "serverhyper": "Hyper-V",
    "serverhypercore": "Hyper-V",
    "serverazurestackhcicor": "Azure Stack HCI",
    "windowspe": "PE",
}
#: Editions that were called otherwise before Windows 8.
_OLD_EDITIONS = {"professional": "Professional", "professionaln": "Professional N"}


def is_server(product_type: str, edition: str) -> bool:
    """Whether it is a server. Multi-session clients call themselves one."""
    return product_type in {"ServerNT", "LanmanNT"} and edition.lower() != MULTI_SESSION


def product(version: VersionFacts, product_type: str) -> str:
    """``Windows Server 2022``, ``Windows 11``; without a build as much as is sure."""
    if version.major is None:
        return "Windows"
    nt = (version.major, version.minor or 0)
    if not product_type and not version.edition:
        return {**_CLIENTS, **_EITHER}.get(nt) or _unknown(version)
    server = is_server(product_type, version.edition)
    if nt[0] >= 10:
        return _server_10(version.build) if server else _client_10(version.build)
    return (_SERVERS if server else _CLIENTS).get(nt) or _unknown(version)


_EITHER = {nt: f"{_CLIENTS[nt]} or {_SERVERS[nt].removeprefix('Windows ')}" for nt in _CLIENTS.keys() & _SERVERS.keys()}


def _client_10(build: int | None) -> str:
    if build is None:
        return "Windows 10 or 11"
    return "Windows 11" if build >= WINDOWS_11 else "Windows 10"


def _server_10(build: int | None) -> str:
    if build is None:
        return "Windows Server 2016 or later"
    return next(name for first, name in _SERVER_BUILDS if build >= first)


def _unknown(version: VersionFacts) -> str:
    return f"Windows NT {version.major}.{version.minor or 0}"


def pretty_name(version: VersionFacts, product_type: str) -> str:
    """``Windows Server 2022 Datacenter (Server Core)``, ``Windows 11 Pro 23H2``, ``Windows 7 Professional SP1``."""
    name = product(version, product_type)
    words = [name]
    edition = _edition(version)
    if edition and edition not in name:
        words.append(edition)
    server = is_server(product_type, version.edition)
    if version.label and not server and (version.major or 0) >= 10:
        words.append(version.label)
    if version.service_pack:
        words.append(version.service_pack.replace("Service Pack ", "SP"))
    if version.installation_type == "Server Core":
        words.append("(Server Core)")
    elif version.installation_type == "Nano Server":
        words.append("(Nano Server)")
    return " ".join(words)


def _edition(version: VersionFacts) -> str:
    key = version.edition.lower()
    if (version.major or 0, version.minor or 0) < (6, 2) and key in _OLD_EDITIONS:
        return _OLD_EDITIONS[key]
    if key == "enterprises" and version.build is not None and version.build < 17763:
        return "Enterprise LTSB"  # until 2018 it was a branch
    return _EDITIONS.get(key, version.edition)
