# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hives SYSTEM and SOFTWARE say about a Windows: its version, its names, its volume."""

from __future__ import annotations

import struct

from coldmig_agent.guest.windows.bcd import gpt_identity, mbr_identity
from coldmig_agent.guest.windows.hive import Hive
from coldmig_agent.guest.windows.model import VersionFacts

CURRENT_VERSION = "Microsoft\\Windows NT\\CurrentVersion"
_ARCHITECTURES = {0: "i386", 5: "arm", 9: "x86_64", 12: "aarch64"}
_ENVIRONMENT = {"x86": "i386", "amd64": "x86_64", "arm64": "aarch64", "arm": "arm", "ia64": "ia64"}
_DYNAMIC_DISK = b"DMIO:ID:"
_PRODUCT_TYPES = {"winnt": "WinNT", "servernt": "ServerNT", "lanmannt": "LanmanNT"}
#: ProductSuite of Windows before Vista, which has no EditionID; the first that applies counts.
_SUITES = (
    ("blade", "ServerWeb"),
    ("small business(restricted)", "ServerSBS"),
    ("small business", "ServerSBS"),
    ("datacenter", "ServerDatacenter"),
    ("enterprise", "ServerEnterprise"),
    ("personal", "Home"),
)


def control_set(system: Hive) -> str:
    """Name of the control set in use (``ControlSet001``): Select names it; with a broken Select the first there is."""
    for name in ("Current", "Default", "LastKnownGood"):
        number = system.number("Select", name)
        if number is not None and 0 < number < 1000 and system.has(f"ControlSet{number:03d}"):
            return f"ControlSet{number:03d}"
    return "ControlSet001"


def product_type(system: Hive, current: str) -> str:
    """``WinNT``, ``ServerNT`` or ``LanmanNT``; empty where it is not told."""
    value = system.text(f"{current}\\Control\\ProductOptions", "ProductType") or ""
    return _PRODUCT_TYPES.get(value.lower(), "")


def product_suite(system: Hive, current: str) -> tuple[str, ...]:
    """ProductSuite, as it is written."""
    return tuple(system.texts(f"{current}\\Control\\ProductOptions", "ProductSuite")[:16])


def architecture(system: Hive, current: str) -> str | None:
    """The processor by DriverDatabase, else by the environment of the system's processes."""
    number = system.number("DriverDatabase", "Architecture")
    if number in _ARCHITECTURES:
        return _ARCHITECTURES[number]
    value = system.text(f"{current}\\Control\\Session Manager\\Environment", "PROCESSOR_ARCHITECTURE") or ""
    return _ENVIRONMENT.get(value.lower())


def computer_name(system: Hive, current: str) -> str | None:
    """The NetBIOS name; ActiveComputerName is not on the disk."""
    return system.text(f"{current}\\Control\\ComputerName\\ComputerName", "ComputerName") or None


def host_name(system: Hive, current: str) -> str | None:
    """The DNS form of the name, as it is from the next start on."""
    key = f"{current}\\Services\\Tcpip\\Parameters"
    return system.text(key, "NV Hostname") or system.text(key, "Hostname") or None


def domain(system: Hive, current: str) -> str | None:
    """The primary DNS suffix: of a member its domain."""
    key = f"{current}\\Services\\Tcpip\\Parameters"
    return system.text(key, "NV Domain") or system.text(key, "Domain") or None


def identity(system: Hive, drive: str) -> str:
    """The volume behind a drive letter, as in WindowsSystem.identity; empty where MountedDevices does not tell."""
    found = system.raw("MountedDevices", f"\\DosDevices\\{drive}:")
    if found is None:
        return ""
    data = found[1]
    if len(data) == 12:
        return mbr_identity(*struct.unpack("<IQ", data))
    if len(data) == 24 and data.startswith(_DYNAMIC_DISK):
        return gpt_identity(data[8:])
    return ""


def version(software: Hive) -> VersionFacts:
    """CurrentVersion. ``CurrentBuildNumber``, not ``CurrentBuild``, which is another thing on Windows XP."""
    major = software.number(CURRENT_VERSION, "CurrentMajorVersionNumber")
    minor = software.number(CURRENT_VERSION, "CurrentMinorVersionNumber")
    if major is None:
        # 10.0 writes "6.3" here for old programs.
        major, minor = _two_numbers(software.text(CURRENT_VERSION, "CurrentVersion") or "")
    build = _number(software.text(CURRENT_VERSION, "CurrentBuildNumber") or "")
    if build is None:
        build = _number(software.text(CURRENT_VERSION, "CurrentBuild") or "")

    def text(name: str) -> str:
        return software.text(CURRENT_VERSION, name) or ""

    return VersionFacts(
        major=major,
        minor=minor,
        build=build,
        ubr=software.number(CURRENT_VERSION, "UBR"),
        product_name=text("ProductName"),
        edition=text("EditionID"),
        installation_type=text("InstallationType"),
        label=text("DisplayVersion") or text("ReleaseId"),
        service_pack=text("CSDVersion"),
        source="SOFTWARE",
    )


def system_drive(software: Hive) -> str:
    """The letter of the drive that Windows calls its own; ``C`` where it does not tell."""
    for name in ("SystemRoot", "PathName"):
        value = software.text(CURRENT_VERSION, name) or ""
        if len(value) > 1 and value[1] == ":" and value[0].isascii() and value[0].isalpha():
            return value[0].upper()
    return "C"


def version_by_database(system: Hive) -> VersionFacts:
    """Only NT's version, which SYSTEM tells from Windows 8 on (0x0A000000 is 10.0)."""
    number = system.number("DriverDatabase", "Version")
    if number is None:
        return VersionFacts()
    return VersionFacts(major=number >> 24, minor=number >> 16 & 0xFF, source="SYSTEM")


def edition_by_suite(suites: tuple[str, ...], product: str) -> str:
    """An edition for Windows before Vista."""
    lower = [suite.lower() for suite in suites]
    for suite, edition in _SUITES:
        if suite in lower:
            return edition
    return {"WinNT": "Professional", "ServerNT": "ServerStandard", "LanmanNT": "ServerStandard"}.get(product, "")


def _number(value: str) -> int | None:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _two_numbers(value: str) -> tuple[int | None, int | None]:
    major, _unused, minor = value.partition(".")
    return _number(major), _number(minor)
