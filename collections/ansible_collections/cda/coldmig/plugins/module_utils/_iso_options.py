# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""The options of the module iso that become the configuration in the ISO."""

from __future__ import annotations

import typing as t


def _exactly_one(names: t.Mapping[str, str], **options: t.Any) -> dict[str, t.Any]:
    """The spec of a dict of which exactly one key (name → type) is given."""
    return {
        "type": "dict",
        "options": {name: {"type": kind} for name, kind in names.items()},
        "mutually_exclusive": [tuple(names)],
        "required_one_of": [tuple(names)],
        **options,
    }


_CARD = {"mac": "str", "name": "str", "driver": "str"}
_TEXTS: dict[str, t.Any] = {"type": "list", "elements": "str"}
_NETWORK = {
    "mode": {"type": "str", "choices": ["dhcp", "static"]},
    "interfaces": {
        "type": "list",
        "elements": "dict",
        "options": {
            "match": _exactly_one({**_CARD, "bond": "str", "first_with_carrier": "bool"}, required=True),
            "dhcp": {"type": "bool"},
            "addresses": _TEXTS,
            "gateway": {"type": "str"},
            "gateway6": {"type": "str"},
            "vlan": {"type": "int"},
            "mtu": {"type": "int"},
            "routes": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "to": {"type": "str", "required": True},
                    "via": {"type": "str"},
                    "metric": {"type": "int"},
                },
            },
        },
    },
    "bonds": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "mode": {"type": "str", "choices": ["802.3ad", "active-backup"], "default": "802.3ad"},
            "members": _exactly_one(_CARD, type="list", elements="dict", required=True),
        },
    },
    "dns": _TEXTS,
    "search": _TEXTS,
    "mtu": {"type": "int"},
}
_RULE = {key: {"type": "str"} for key in ("serial", "path", "label", "size", "larger_than", "smaller_than")}
# What a row of the fleet table may have too.
_COMMON: dict[str, t.Any] = {
    "network": {"type": "dict", "options": _NETWORK},
    "proxy": {"type": "str"},
    "proxy_username": {"type": "str"},
    "proxy_password": {"type": "str", "no_log": True},
    "time": {"type": "dict", "options": {"ntp": _TEXTS, "zone": {"type": "str"}}},
    # A keyboard is no key, and public keys are no secrets.
    "keyboard": {"type": "str", "no_log": False},
    "access": {
        "type": "dict",
        "options": {"root_password_hash": {"type": "str", "no_log": True}, "ssh_keys": {**_TEXTS, "no_log": False}},
    },
    "banner": {"type": "str"},
    "disks": {
        "type": "dict",
        "options": {"leave_out": {"type": "list", "elements": "dict", "options": _RULE}},
    },
}


def settings_options() -> dict[str, t.Any]:
    """The part of the argument spec that describes the live system."""
    return {
        "site": {"type": "dict", "options": {"url": {"type": "str"}, "ca_pem": {"type": "str"}}},
        **_COMMON,
        "machines": {
            "type": "list",
            "elements": "dict",
            "options": {
                "match": _exactly_one({"serial": "str", "mac": "str"}, required=True),
                **_COMMON,
                "poweroff_when_done": {"type": "bool"},
            },
        },
        "console": {
            "type": "dict",
            "options": {
                "serial": {"type": "str", "default": "ttyS0,115200"},
                "shell": {"type": "bool", "default": False},
                "mode": {"type": "str", "choices": ["auto", "plain", "screen"], "default": "auto"},
            },
        },
        "kernel_args": {"type": "list", "elements": "str", "default": []},
        "poweroff_when_done": {"type": "bool", "default": False},
    }


def settings_from_options(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The configuration's part that comes from module options; what was left out of them is left out here too.

    ``proxy`` is always there: None, or with its user name and password.
    """
    names = ("site", *_COMMON, "machines", "poweroff_when_done")
    settings = _given({name: options.get(name) for name in names})
    settings["machines"] = [_with_proxy(row) for row in settings.get("machines", [])]
    settings = {"proxy": None, **_with_proxy(settings)}
    if options.get("console") is not None:
        # Ansible has no way to pass "no text", so the empty one stands for no serial console.
        settings["console"] = {**options["console"], "serial": options["console"]["serial"] or None}
    return settings


def _given(value: t.Any) -> t.Any:
    """Without what is None, at every depth: Ansible fills in None for every sub-option that was not written."""
    if isinstance(value, dict):
        return {name: _given(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_given(item) for item in value]
    return value


def _with_proxy(settings: dict[str, t.Any]) -> dict[str, t.Any]:
    """The three options of the proxy as one value."""
    rest = {name: value for name, value in settings.items() if not name.startswith("proxy")}
    parts = {"url": "proxy", "username": "proxy_username", "password": "proxy_password"}
    proxy = {part: settings[name] for part, name in parts.items() if name in settings}
    return {**rest, "proxy": proxy} if proxy else rest
