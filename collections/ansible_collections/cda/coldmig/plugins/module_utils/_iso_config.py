# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The configuration that an ISO carries to the source machine: its shape, its checks, its errors."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.cda.coldmig.plugins.module_utils._iso_checks import (
    Checker,
    ConfigError,
    FieldProblem,
    IsoImageError,
)
from ansible_collections.cda.coldmig.plugins.module_utils._iso_keymaps import KEYMAPS
from ansible_collections.cda.coldmig.plugins.module_utils._iso_network import check_network

__all__ = [
    "FORMAT",
    "ConfigError",
    "FieldProblem",
    "IsoImageError",
    "merge_row",
    "public_config",
    "validate_config",
    "validate_kernel_args",
]

FORMAT = 2
"""Version of the configuration and of the base image's layout."""
DEFAULT_SERIAL = "ttyS0,115200"
CONSOLE_MODES = ("auto", "plain", "screen")
HIDDEN = "(hidden)"
MAX_MACHINES = 10_000
MAX_BANNER = 2000
ROW_SECTIONS = ("network", "time", "access", "disks")
ROW_VALUES = ("proxy", "keyboard", "banner", "poweroff_when_done")
_RULE = ("serial", "path", "label", "size", "larger_than", "smaller_than")
# crypt(5), without the methods that are broken (DES, MD5)
_HASH = r"\$(y|gy|7|6|5|2[abxy])\$[./A-Za-z0-9=,$]{8,250}"
_ROOT = (
    "format",
    "site",
    "credential",
    "template",
    "network",
    "console",
    "time",
    "keyboard",
    "access",
    "banner",
    "disks",
    "machines",
    "poweroff_when_done",
)


def validate_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration and return it with all defaults filled in.

    Shape::

        {"format": 2,
         "site": {"url": "https://host:port", "ca_pem": "...",
                  "proxy": None | {"url": "http://host:port", "username": None | str, "password": None | str}},
         "credential": "cm1_iso_...",
         "template": {"id": str, "name": str, "organization": str},
         "network": see _iso_network.check_network,
         "console": {"serial": None | "ttyS0,115200", "shell": False, "mode": "auto" | "plain" | "screen"},
         "time": {"ntp": [str], "zone": None | "Europe/Berlin"},
         "keyboard": None | "de-latin1",
         "access": {"root_password_hash": None | "$6$...", "ssh_keys": [str]},
         "banner": None | str,
         "disks": {"leave_out": [{"serial" | "path" | "label" | "size" | "larger_than" | "smaller_than": ...}]},
         "machines": [{"match": {"serial": str} | {"mac": str}, "network" | "time" | "access" | "disks": {...},
                       "proxy" | "keyboard" | "banner" | "poweroff_when_done": ...}],
         "poweroff_when_done": False}

    ``console.serial`` is a Linux serial console with its speed (None: no serial console); ``console.shell`` opens a
    root shell on the second virtual terminal of the source, which asks for the password where there is a hash. A row of
    ``machines`` replaces sections key by key, and everything else as a whole, on the machine that it fits.

    :raises ConfigError: naming every wrong field, its value and what is allowed; secrets are never in it.
    """
    check = Checker()
    root = check.mapping(config, "config", _ROOT)
    if (version := root.get("format", FORMAT)) != FORMAT or isinstance(version, bool):
        check.problem("format", version, f"is not supported; this version writes {FORMAT}")
    site = check.mapping(root.get("site"), "site", ("url", "ca_pem", "proxy"))
    template = check.mapping(root.get("template"), "template", ("id", "name", "organization"))
    console = check.mapping(root.get("console"), "console", ("serial", "shell", "mode"))
    # None is a value of its own here: no serial console.
    given = root.get("console")
    serial = given.get("serial", DEFAULT_SERIAL) if isinstance(given, Mapping) else DEFAULT_SERIAL
    result: dict[str, Any] = {
        "format": FORMAT,
        "site": {
            "url": check.url(site.get("url"), "site.url", ("https",)),
            "ca_pem": check.certificates(site.get("ca_pem"), "site.ca_pem"),
            "proxy": _proxy(check, site.get("proxy"), "site.proxy"),
        },
        "credential": check.secret(
            root.get("credential"),
            "credential",
            r"cm1_iso_[A-Za-z0-9_-]{43}",
            'an ISO credential of the gateway, "cm1_iso_" and 43 characters',
        ),
        "template": {key: check.text(template.get(key), f"template.{key}") for key in ("id", "name", "organization")},
        "network": check_network(check, root.get("network")),
        "console": {
            "serial": check.optional(serial, "console.serial", check.serial),
            "shell": check.boolean(console.get("shell", False), "console.shell"),
            "mode": check.choice(console.get("mode", CONSOLE_MODES[0]), "console.mode", CONSOLE_MODES),
        },
        "time": _time(check, root.get("time"), "time"),
        "keyboard": _keyboard(check, root.get("keyboard"), "keyboard"),
        "access": _access(check, root.get("access"), "access"),
        "banner": _banner(check, root.get("banner"), "banner"),
        "disks": _disks(check, root.get("disks"), "disks"),
        "poweroff_when_done": check.boolean(root.get("poweroff_when_done", False), "poweroff_when_done"),
    }
    result["machines"] = _machines(check, root.get("machines"), result["network"])
    check.raise_problems()
    return result


def public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it may be shown: without the credential, with ``(hidden)`` for other secrets."""
    shown = _without_secrets({name: value for name, value in config.items() if name != "credential"})
    return dict(shown)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if name in ("password", "root_password_hash") and item is not None else _without_secrets(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_secrets(item) for item in value]
    return value


def merge_row(config: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What counts on the machine of a row; the agent does the same (``coldmig_agent.settings.merge_row``)."""
    merged = dict(config)
    for key, value in row.items():
        if key in ROW_SECTIONS:
            merged[key] = {**merged.get(key, {}), **value}
        elif key == "proxy":
            merged["site"] = {**merged["site"], "proxy": value}
        elif key in ROW_VALUES:
            merged[key] = value
    return merged


def _proxy(check: Checker, value: Any, name: str) -> dict[str, Any] | None:
    if value is None:
        return None
    proxy = check.mapping({"url": value} if isinstance(value, str) else value, name, ("url", "username", "password"))
    instead = "; there are fields of their own for them"
    url = check.url(proxy.get("url"), f"{name}.url", ("http",), instead)
    username = check.optional(
        proxy.get("username"),
        f"{name}.username",
        lambda v, n: check.pattern(v, n, r"[^:\x00-\x1f\x7f]{1,255}", "text without a colon"),
    )
    password = check.optional(
        proxy.get("password"), f"{name}.password", lambda v, n: check.secret(v, n, r"[^\x00-\x1f\x7f]{1,255}", "text")
    )
    if password is not None and username is None:
        check.problem(f"{name}.username", None, "is missing, and there is a password")
    return {"url": url, "username": username, "password": password}


def _time(check: Checker, value: Any, name: str) -> dict[str, Any]:
    section = check.mapping(value, name, ("ntp", "zone"))

    def zone(item: Any, field: str) -> str:
        known = zoneinfo.available_timezones()  # empty where the controller has no database
        if not isinstance(item, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", item):
            check.problem(field, item, "must be a time zone such as Europe/Berlin")
        elif known and item not in known:
            check.problem(field, item, "is no time zone of the IANA database; they are called like Europe/Berlin")
        return str(item)

    return {
        "ntp": check.each(section.get("ntp"), f"{name}.ntp", check.host, 8),
        "zone": check.optional(section.get("zone"), f"{name}.zone", zone),
    }


def _keyboard(check: Checker, value: Any, name: str) -> str | None:
    if value is None or value in KEYMAPS:
        return value
    near = [keymap for keymap in KEYMAPS if keymap.startswith(str(value)[:2])]
    check.problem(name, value, f"is no keymap of the live system; some are {', '.join(near[:8] or KEYMAPS[:8])}")
    return None


def _access(check: Checker, value: Any, name: str) -> dict[str, Any]:
    section = check.mapping(value, name, ("root_password_hash", "ssh_keys"))
    meaning = "a password hash of crypt(5) such as $6$... or $y$... (mkpasswd, or the filter password_hash)"
    return {
        "root_password_hash": check.optional(
            section.get("root_password_hash"),
            f"{name}.root_password_hash",
            lambda v, n: check.secret(v, n, _HASH, meaning),
        ),
        "ssh_keys": check.each(section.get("ssh_keys"), f"{name}.ssh_keys", check.ssh_key),
    }


def _banner(check: Checker, value: Any, name: str) -> str | None:
    return check.optional(value, name, lambda v, n: check.lines(v, n, MAX_BANNER)) or None


def _disks(check: Checker, value: Any, name: str) -> dict[str, Any]:
    section = check.mapping(value, name, ("leave_out",))
    return {
        "leave_out": check.each(section.get("leave_out"), f"{name}.leave_out", lambda v, n: _rule(check, v, n), 256)
    }


def _rule(check: Checker, value: Any, name: str) -> dict[str, Any]:
    rule = check.mapping(value, name, _RULE)
    if not rule:
        check.problem(name, value, f"must have at least one of {', '.join(_RULE)}")
    checks = {
        "path": lambda v, n: check.pattern(
            v, n, r"/dev/[!-~]{1,200}", "a path below /dev/ (with * and ? for anything)"
        ),
        "size": check.size,
        "larger_than": check.size,
        "smaller_than": check.size,
    }
    return {key: checks.get(key, check.text)(rule[key], f"{name}.{key}") for key in _RULE if key in rule}


def _machines(check: Checker, value: Any, network: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(check.sequence(value, "machines", MAX_MACHINES)):
        name = f"machines[{index}]"
        row = check.mapping(item, name, ("match", *ROW_SECTIONS, *ROW_VALUES))
        match = check.mapping(row.get("match"), f"{name}.match", ("serial", "mac"))
        clean: dict[str, Any] = {"match": {}}
        if len(match) != 1:
            check.problem(f"{name}.match", dict(match), "must have exactly one of serial, mac")
        elif "serial" in match:
            clean["match"] = {"serial": check.text(match["serial"], f"{name}.match.serial").strip()}
        else:
            clean["match"] = {"mac": check.mac(match["mac"], f"{name}.match.mac")}
        if clean["match"] and seen.setdefault(str(clean["match"]), index) != index:
            check.problem(f"{name}.match", clean["match"], f"is the match of machines[{seen[str(clean['match'])]}] too")
        checks = {"time": _time, "access": _access, "disks": _disks}
        for key, section_check in checks.items():
            if key in row:
                checked = section_check(check, row[key], f"{name}.{key}")
                clean[key] = {field: checked[field] for field in row[key] if field in checked}
        if "network" in row:
            # Whole, as the machine will have it: only together can it be right.
            checked = check_network(check, merge_network(network, row["network"]), f"{name}.network")
            clean["network"] = {field: checked[field] for field in row["network"] if field in checked}
        if "proxy" in row:
            clean["proxy"] = _proxy(check, row["proxy"], f"{name}.proxy")
        if "keyboard" in row:
            clean["keyboard"] = _keyboard(check, row["keyboard"], f"{name}.keyboard")
        if "banner" in row:
            clean["banner"] = _banner(check, row["banner"], f"{name}.banner")
        if "poweroff_when_done" in row:
            clean["poweroff_when_done"] = check.boolean(row["poweroff_when_done"], f"{name}.poweroff_when_done")
        rows.append(clean)
    return rows


def merge_network(base: Mapping[str, Any], row: Any) -> Any:
    """The network of a machine: its own keys, and those of the ISO for the rest."""
    if not isinstance(row, Mapping):
        return row
    return {**base, **{key: value for key, value in row.items() if value is not None}}


# What would point the boot at something else than the read-only live system.
_ARG_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:/@+=-]{0,199}")
_ARG_FORBIDDEN = re.compile(
    r"(?!coldmig\.inspect=(?:no|[0-9]{1,5})$)"  # how long the disks are looked into: changes nothing of these
    r"(coldmig|systemd|rd|luks|init|rdinit|root|rootflags|rootfstype|resume|noresume|swap|fstab|raid|md|dm|dm_mod"
    r"|md_mod|mount|netroot|BOOT_IMAGE)([.=_].*)?"
)
# Settings that have an option of their own, where they are checked: argument -> option
_ARG_OPTIONS = {
    "site": "site",
    "proxy": "proxy",
    **dict.fromkeys(("bond", "interface", "ip", "gateway", "vlan", "mtu", "routes", "dns", "search"), "network"),
    "ntp": "time",
    "timezone": "time",
    "keyboard": "keyboard",
    "leave_out": "disks",
    "ssh": "access",
    "poweroff": "poweroff_when_done",
    "machine": "machines",
    "console": "console.mode",
    "shell": "console.shell",
}


def validate_kernel_args(args: Sequence[str]) -> list[str]:
    """Check extra kernel arguments (they end up in a GRUB script, and must not lift the read-only fence).

    :raises ConfigError: naming each argument that is not allowed.
    """
    problems: list[FieldProblem] = []
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise ConfigError([FieldProblem("kernel_args", args, "must be a list of strings")])
    for index, arg in enumerate(args):
        name = f"kernel_args[{index}]"
        if not isinstance(arg, str) or not _ARG_PATTERN.fullmatch(arg):
            problems.append(FieldProblem(name, arg, "must be one word of letters, digits and _ . , : / @ + = -"))
        elif (option := _ARG_OPTIONS.get(arg.partition("=")[0].removeprefix("coldmig."))) and arg.startswith(
            "coldmig."
        ):
            problems.append(FieldProblem(name, arg, f"is reserved: set the option {option} instead, which is checked"))
        elif _ARG_FORBIDDEN.fullmatch(arg):
            problems.append(
                FieldProblem(name, arg, "is reserved: it would change what the live system boots or writes")
            )
    if problems:
        raise ConfigError(problems)
    return list(args)
