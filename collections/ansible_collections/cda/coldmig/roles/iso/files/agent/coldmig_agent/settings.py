# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings that count on this machine: the ISO's, then its row of the fleet table, then the kernel's command line.

Everything is done on the settings' JSON object and checked again as a whole, so that whatever comes out is as sound as
what the ISO was made with. What is wrong on the command line is left out and reported; the rest counts.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coldmig_agent import __version__, interfaces
from coldmig_agent.config import ROW_SECTIONS, Config, ConfigError, ImageRef, MachineRow, load_config, parse_document
from coldmig_agent.discovery import dmi
from coldmig_agent.interfaces import read_text
from coldmig_agent.netsettings import MODES
from coldmig_agent.text import clean

PREFIX = "coldmig."
#: Arguments that other parts of the live system read by themselves.
OTHERS = frozenset({"volume", "find_seconds", "inspect", "shell", "console"})
_YES = {"yes": True, "on": True, "true": True, "1": True, "no": False, "off": False, "false": False, "0": False}
_MEDIUM = "coldmig/medium.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting that does not come from the ISO's template: ``field`` and ``source``, both for a person."""

    field: str
    source: str


@dataclass(frozen=True, slots=True)
class Effective:
    """What counts, what of it was overridden and by whom, and which overrides are wrong and were left out."""

    config: Config
    origins: tuple[Origin, ...] = ()
    problems: tuple[str, ...] = ()


# -- kernel arguments: each changes the JSON object -------------------------------------------------------------------


def _list(value: str) -> list[str]:
    """``a,b``; ``none`` and nothing are the empty list."""
    return [] if value in {"", "none"} else [part for part in value.split(",") if part]


def _yes(value: str, name: str) -> bool:
    if value.lower() not in _YES:
        raise ConfigError(name, value, "yes or no")
    return _YES[value.lower()]


def _number(value: str, name: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 10:
        raise ConfigError(name, value, "a whole number")
    return int(value)


def _section(document: dict[str, Any], name: str) -> dict[str, Any]:
    section = dict(document.get(name) or {})
    document[name] = section
    return section


def _interface(document: dict[str, Any]) -> dict[str, Any]:
    """The one interface that the arguments speak of: the first of the settings, or else the first with a link."""
    network = _section(document, "network")
    given = list(network.get("interfaces") or [])
    entry = dict(given[0]) if given else {"match": {"first_with_carrier": True}}
    network["interfaces"] = [entry, *given[1:]]
    return entry


def parse_match(value: str) -> dict[str, Any]:
    """``eno1``, a MAC address, ``driver:ixgbe``, ``bond:bond0`` or ``carrier``."""
    kind, _colon, rest = value.partition(":")
    if kind in {"driver", "bond"} and rest:
        return {kind: rest}
    if value == "carrier":
        return {"first_with_carrier": True}
    plain = value.replace("-", ":")
    if plain.count(":") == 5:
        return {"mac": plain}
    return {"name": value}


def _set_site(document: dict[str, Any], value: str) -> None:
    _section(document, "site")["url"] = value if "://" in value else f"https://{value}"


def _set_proxy(document: dict[str, Any], value: str) -> None:
    site = _section(document, "site")
    if value in {"", "none"}:
        site["proxy"] = None
        return
    url = value if "://" in value else f"http://{value}"
    known = site.get("proxy")
    # Name and password are those of one proxy; another one never sees them.
    same = isinstance(known, dict) and str(known.get("url", "")).rstrip("/") == url.rstrip("/")
    site["proxy"] = known if same else {"url": url}


def _set_interface(document: dict[str, Any], value: str) -> None:
    """Use this interface alone: what the settings say of others does not count for it."""
    network = _section(document, "network")
    given = list(network.get("interfaces") or [])
    entry = dict(given[0]) if given else {}
    entry["match"] = parse_match(value)
    network["interfaces"] = [entry]


def _set_address(document: dict[str, Any], value: str) -> None:
    entry = _interface(document)
    if value == "dhcp":
        entry.update(dhcp=True, addresses=[], gateway=None, gateway6=None, routes=[])
    else:
        entry.update(dhcp=False, addresses=_list(value))


def _set_gateway(document: dict[str, Any], value: str) -> None:
    addresses = _list(value)
    v6 = [item for item in addresses if ":" in item]
    v4 = [item for item in addresses if ":" not in item]
    if len(v4) > 1 or len(v6) > 1:
        raise ConfigError("coldmig.gateway", value, "at most one IPv4 and one IPv6 address, with a comma between them")
    _interface(document).update(gateway=v4[0] if v4 else None, gateway6=v6[0] if v6 else None)


def _set_vlan(document: dict[str, Any], value: str) -> None:
    _interface(document)["vlan"] = None if value in {"", "none"} else _number(value, "coldmig.vlan")


def _set_mtu(document: dict[str, Any], value: str) -> None:
    network = _section(document, "network")
    network["mtu"] = _number(value, "coldmig.mtu")
    network["interfaces"] = [{**entry, "mtu": None} for entry in network.get("interfaces") or []]


def _set_bond(document: dict[str, Any], value: str) -> None:
    """``bond0:eno1,eno2`` or ``bond0:eno1,eno2:active-backup``; MAC addresses with dashes."""
    name, _colon, rest = value.partition(":")
    members, _colon, mode = rest.partition(":")
    if not name or not members:
        raise ConfigError("coldmig.bond", value, f"NAME:MEMBER,MEMBER or NAME:MEMBER,MEMBER:MODE with {MODES}")
    network = _section(document, "network")
    matches = [parse_match(member) for member in members.split(",")]
    network["bonds"] = [{"name": name, "mode": mode or MODES[0], "members": matches}]
    _set_interface(document, f"bond:{name}")


def _set_routes(document: dict[str, Any], value: str) -> None:
    """``198.51.100.0/24,192.0.2.1;203.0.113.0/24,192.0.2.2,100``."""
    routes: list[dict[str, Any]] = []
    for part in filter(None, value.split(";")):
        words = part.split(",")
        if len(words) not in {2, 3}:
            raise ConfigError("coldmig.routes", part, "NETWORK,ROUTER or NETWORK,ROUTER,METRIC")
        route: dict[str, Any] = {"to": words[0], "via": words[1]}
        if len(words) == 3:
            route["metric"] = _number(words[2], "coldmig.routes")
        routes.append(route)
    _interface(document)["routes"] = routes


def _set_leave_out(document: dict[str, Any], value: str) -> None:
    """``serial=S1;path=/dev/sdb;label=BACKUP;larger_than=4TB``, added to the rules of the settings."""
    disks = _section(document, "disks")
    rules = [] if value == "none" else list(disks.get("leave_out") or [])
    for part in filter(None, [] if value == "none" else value.split(";")):
        key, equals, rest = part.partition("=")
        if not equals:
            raise ConfigError("coldmig.leave_out", part, "KEY=VALUE with serial, path, label, size, larger_than …")
        rules.append({key: rest})
    disks["leave_out"] = rules


def _set_ssh(document: dict[str, Any], value: str) -> None:
    if _yes(value, "coldmig.ssh"):
        raise ConfigError("coldmig.ssh", value, "no: keys and the password are set when the ISO is made")
    document["access"] = {}


def _in_section(section: str, key: str, convert: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def change(document: dict[str, Any], value: str) -> None:
        _section(document, section)[key] = convert(value)

    return change


def _whole(key: str, convert: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def change(document: dict[str, Any], value: str) -> None:
        document[key] = convert(value)

    return change


#: Kernel argument without its prefix → what it does. In this order: the interface is chosen before it is described.
OVERRIDES: Mapping[str, Callable[[dict[str, Any], str], None]] = {
    "site": _set_site,
    "proxy": _set_proxy,
    "bond": _set_bond,
    "interface": _set_interface,
    "ip": _set_address,
    "gateway": _set_gateway,
    "vlan": _set_vlan,
    "mtu": _set_mtu,
    "routes": _set_routes,
    "dns": _in_section("network", "dns", _list),
    "search": _in_section("network", "search", _list),
    "ntp": _in_section("time", "ntp", _list),
    "timezone": _in_section("time", "zone", lambda value: value or None),
    "keyboard": _whole("keyboard", lambda value: value or None),
    "leave_out": _set_leave_out,
    "ssh": _set_ssh,
    "poweroff": _whole("poweroff_when_done", lambda value: _yes(value, "coldmig.poweroff")),
}
#: Chooses the row of the fleet table, whatever the firmware says.
MACHINE = "machine"


def split_words(command_line: str) -> list[str]:
    """The words of a kernel command line; quotes that do not match are letters like others."""
    try:
        return shlex.split(command_line)
    except ValueError:
        return command_line.split()


def read_arguments(command_line: str) -> dict[str, str]:
    """``coldmig.KEY=VALUE`` of a kernel command line, without the prefix; the last one of a key counts."""
    found: dict[str, str] = {}
    for word in split_words(command_line):
        if word.startswith(PREFIX):
            key, _equals, value = word.removeprefix(PREFIX).partition("=")
            found[key] = value
    return {key: value for key, value in found.items() if key not in OTHERS}


# -- what counts ------------------------------------------------------------------------------------------------------


def find_row(
    rows: Sequence[MachineRow], serial: str, macs: Sequence[str], wanted: str | None = None
) -> MachineRow | None:
    """The row of this machine; ``wanted`` (a serial number or a MAC address) replaces what the machine says itself."""
    if wanted is not None:
        mac = wanted.lower().replace("-", ":")
        return next((row for row in rows if wanted == row.serial or mac == row.mac), None)
    known = {mac.lower() for mac in macs}
    by_serial = next((row for row in rows if row.serial is not None and serial and row.serial == serial.strip()), None)
    return by_serial or next((row for row in rows if row.mac is not None and row.mac in known), None)


def merge_row(document: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a row's: sections key by key, everything else as a whole."""
    merged = dict(document)
    for key, value in row.items():
        if key in ROW_SECTIONS and isinstance(value, Mapping):
            merged[key] = {**(merged.get(key) or {}), **value}
        elif key == "proxy":
            merged["site"] = {**merged["site"], "proxy": value}
        else:
            merged[key] = value
    return merged


def override(config: Config, values: Mapping[str, str], source: str = "kernel argument") -> Effective:
    """The settings with some changed, in the words of the kernel arguments (``{"ip": "192.0.2.10/24", "vlan": "7"}``).

    Each change is tried on what the others gave; one that is wrong is left out and becomes a problem. Arguments that
    only make sense together (an address and a VLAN, say) are tried together first.
    """
    known = [key for key in OVERRIDES if key in values]
    problems = [
        f"{PREFIX}{clean(key, 40)} is not known; known are {', '.join(PREFIX + name for name in (*OVERRIDES, MACHINE))}"
        for key in values
        if key not in OVERRIDES and key != MACHINE
    ]
    used: list[str] = []
    result = config
    try:
        result = _changed(config, known, values)
        used = known
    except ConfigError:
        for key in known:
            try:
                result = _changed(config, [*used, key], values)
            except ConfigError as error:
                problems.append(f"{PREFIX}{key}={clean(values[key], 80)} is not used: {error}")
            else:
                used.append(key)
    origins = tuple(Origin(key, f"{source} {PREFIX}{key}") for key in used)
    return Effective(result, origins, tuple(problems))


def _changed(config: Config, keys: Sequence[str], values: Mapping[str, str]) -> Config:
    document = dict(config.document)
    for key in keys:
        OVERRIDES[key](document, values[key])
    return replace(parse_document(document), image=config.image)


def effective(config: Config, arguments: Mapping[str, str], serial: str, macs: Sequence[str]) -> Effective:
    """What counts on the machine with this serial number (SMBIOS type 1) and these MAC addresses.

    ``arguments``: of :func:`read_arguments`. Pure. Raises ConfigError only when the machine's row is wrong.
    """
    wanted = arguments.get(MACHINE)
    row = find_row(config.machines, serial, macs, wanted)
    origins: list[Origin] = []
    problems: list[str] = []
    if wanted and row is None:
        problems.append(f"{PREFIX}{MACHINE}={clean(wanted, 80)} is not used: the ISO's table has no such machine")
    if row is not None:
        merged = merge_row(config.document, row.document)
        config = replace(parse_document(merged), image=config.image)
        origins += [Origin(key, f"the ISO's table, machine {clean(row.key, 80)}") for key in row.document]
    rest = override(config, arguments)
    return Effective(rest.config, (*origins, *rest.origins), (*problems, *rest.problems))


# -- reading the machine ----------------------------------------------------------------------------------------------


def image_ref(run: Path) -> ImageRef:
    """Which image runs, by what its /init noted."""
    try:
        document = json.loads(read_text(run / _MEDIUM, 1 << 16) or "null")
    except ValueError:
        document = None
    volume = document.get("volume_id") if isinstance(document, dict) else None
    name = clean(volume, 32) if isinstance(volume, str) else ""
    return ImageRef(__version__, name.rpartition("_")[2], name)


def mac_addresses(sys: Path) -> list[str]:
    """Every wired interface's burnt-in address and the one in use."""
    found: list[str] = []
    for name in interfaces.ethernet_names(sys):
        found += [mac for mac in (interfaces.permanent_mac(name), interfaces.mac_address(name, sys)) if mac]
    return list(dict.fromkeys(found))


def load(path: Path, sys: Path = Path("/sys"), proc: Path = Path("/proc"), run: Path = Path("/run")) -> Effective:
    """Read the ISO's settings and this machine, and say what counts. Raises ConfigError."""
    config = replace(load_config(path), image=image_ref(run))
    arguments = read_arguments(read_text(proc / "cmdline", 1 << 16) or "")
    serial = dmi.read(sys).system.serial if config.machines else ""
    return effective(config, arguments, serial, mac_addresses(sys) if config.machines else [])
