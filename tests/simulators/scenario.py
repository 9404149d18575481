# SPDX-License-Identifier: GPL-3.0-or-later
"""The site that the simulators show, read from a YAML file and completed with ids and passwords."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Any

import yaml

DEFAULT = Path(__file__).with_name("scenario.yaml")
_SPACE = uuid.UUID("7c0f3d5e-6a0b-4c0f-9d8e-2f1c5a9b7e31")

Json = dict[str, Any]


def stable_id(*names: str) -> str:
    """Make the same id from the same names, so that runs can be compared."""
    return str(uuid.uuid5(_SPACE, "/".join(names)))


def _complete_users(users: Json, org: str) -> None:
    for name, user in users.items():
        user.setdefault("id", stable_id("user", org, name))
        user.setdefault("password", secrets.token_urlsafe(12))
        for kind in ("api_token", "service_token"):
            if user.get(kind) is True:
                user[kind] = secrets.token_urlsafe(24)


def load(path: Path = DEFAULT) -> Json:
    """Read a scenario.

    Raises:
        ValueError: a part is missing; the text names it.
    """
    data: Json = yaml.safe_load(path.read_text())
    for part in ("vcenter", "vcd"):
        if not isinstance(data.get(part), dict):
            raise ValueError(f"{path}: the part {part!r} is missing")
    data["vcenter"].setdefault("password", secrets.token_urlsafe(12))
    vcd = data["vcd"]
    vcd.setdefault("virtual_center_id", stable_id("vimserver", vcd["virtual_center"]))
    _complete_users(vcd["users"], "System")
    pools = data["vcenter"]["resource_pools"]
    for name, org in vcd["organizations"].items():
        org.setdefault("id", stable_id("org", name))
        org.setdefault("full_name", name)
        _complete_users(org.setdefault("users", {}), name)
        for group_name, group in org.setdefault("groups", {}).items():
            group.setdefault("id", stable_id("group", name, group_name))
            for network_name, network in group["networks"].items():
                network.setdefault("id", stable_id("network", name, group_name, network_name))
                network.setdefault("dns", None)
        for vdc_name, vdc in org.setdefault("vdcs", {}).items():
            if vdc.get("resource_pool") not in pools:
                raise ValueError(f"{path}: VDC {vdc_name}: resource_pool must be one of {pools}")
            vdc.setdefault("id", stable_id("vdc", name, vdc_name))
            for profile_name, profile in vdc.setdefault("storage_profiles", {}).items():
                profile.setdefault("id", stable_id("storage", name, vdc_name, profile_name))
                profile.setdefault("default", False)
            for network_name, network in vdc.setdefault("networks", {}).items():
                network.setdefault("id", stable_id("network", name, vdc_name, network_name))
                network.setdefault("dns", None)
    return data
