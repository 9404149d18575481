# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import typing as t
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.cda.coldmig.plugins.module_utils import _iso
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import IsoInfo, validate_config
from ansible_collections.cda.coldmig.plugins.module_utils._iso_options import settings_from_options, settings_options

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SECRET = "cm1_iso_" + "s" * 43


def credential(**changes: t.Any) -> t.Any:
    expires = (NOW + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    return {"id": "c-1", "expires_at": expires, "revoked_at": None, "uses": 0, "max_registrations": None, **changes}


@pytest.mark.parametrize(
    ("held", "state"),
    [
        (None, "unknown"),
        (credential(), "valid"),
        (credential(uses=9), "valid"),
        (credential(uses=1, max_registrations=2), "valid"),
        (credential(uses=2, max_registrations=2), "used up"),
        (credential(expires_at="2026-03-02T08:00:00Z"), "expired"),
        (credential(revoked_at="2026-03-01T00:00:00Z"), "revoked"),
        (credential(revoked_at="2026-03-01T00:00:00Z", expires_at="2026-03-01T00:00:00Z"), "revoked"),
    ],
)
def test_state_of_a_credential(held: t.Any, state: str) -> None:
    assert _iso.credential_state(held, NOW) == state


def test_fingerprint_is_short_and_not_the_secret() -> None:
    assert _iso.fingerprint("cm1_iso_x") == _iso.fingerprint("cm1_iso_x")
    assert _iso.fingerprint("cm1_iso_x") != _iso.fingerprint("cm1_iso_y")
    assert len(_iso.fingerprint(SECRET)) == 16


def test_view_has_everything_but_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "erp.iso"
    file.write_bytes(b"image")
    config = {"credential": SECRET, "template": {"name": "erp"}, "poweroff_when_done": True}
    info = IsoInfo(str(file), 5, "COLDMIG_1_0123456789ABCDEF", 1, "0123456789ABCDEF", config, ["quiet"])
    view = _iso.public_view(info, t.cast("t.Any", {**credential(), "credential": SECRET}), checksum=True)
    assert SECRET not in json.dumps(view)
    assert view["config"] == {"template": {"name": "erp"}, "poweroff_when_done": True}
    assert view["credential"]["id"] == "c-1"
    assert view["sha256"] == "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert _iso.public_view(info, None, checksum=False)["sha256"] is None


def filled_in(options: dict[str, t.Any]) -> t.Any:
    """The options as the module gets them: checked, with None for what was not written."""
    return ArgumentSpecValidator(settings_options()).validate(options)


def test_options_become_a_configuration_that_the_image_takes(pki: t.Any) -> None:
    static = {"addresses": ["192.0.2.10/24"], "gateway": "192.0.2.1"}
    result = filled_in(
        {
            "site": {"url": "https://203.0.113.7:9443"},
            "proxy": "http://192.0.2.1:3128",
            "proxy_username": "migration",
            "proxy_password": "hunter2!",
            "network": {
                "mode": "static",
                "interfaces": [{"match": {"mac": "52:54:00:12:34:56"}, **static}],
                "dns": ["192.0.2.53"],
            },
            "time": {"ntp": ["192.0.2.123"]},
            "keyboard": "de",
            "access": {"root_password_hash": "$6$saltsalt$" + "h" * 86},
            "disks": {"leave_out": [{"size": 500107862016}, {"label": "BACKUP", "larger_than": "1TB"}]},
            "machines": [
                {"match": {"serial": "S1"}, "proxy": "http://192.0.2.2:3128", "network": {"dns": ["192.0.2.54"]}}
            ],
            "console": {"serial": "", "shell": False},
        }
    )
    assert result.error_messages == []
    assert result._no_log_values == {"hunter2!", "$6$saltsalt$" + "h" * 86}
    settings = settings_from_options(result.validated_parameters)
    site = settings.pop("site")
    assert site == {"url": "https://203.0.113.7:9443"}
    checked = validate_config(
        {
            "site": {"ca_pem": pki.ca.read_text(), "proxy": settings.pop("proxy"), **site},
            "credential": SECRET,
            "template": {"id": "1", "name": "erp", "organization": "acme"},
            **settings,
        }
    )
    proxy = {"url": "http://192.0.2.1:3128", "username": "migration", "password": "hunter2!"}
    assert checked["site"]["proxy"] == proxy
    assert checked["console"]["serial"] is None
    assert checked["network"]["interfaces"][0]["match"] == {"mac": "52:54:00:12:34:56"}
    assert checked["disks"]["leave_out"] == [{"size": "500107862016"}, {"label": "BACKUP", "larger_than": "1TB"}]
    assert checked["machines"][0] == {
        "match": {"serial": "S1"},
        "network": {"dns": ["192.0.2.54"]},
        "proxy": {"url": "http://192.0.2.2:3128", "username": None, "password": None},
    }


def test_settings_that_are_left_out_are_left_to_the_image() -> None:
    settings = settings_from_options(filled_in({"poweroff_when_done": True}).validated_parameters)
    assert settings == {"proxy": None, "poweroff_when_done": True, "machines": []}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": {"interfaces": [{"match": {"mac": "a", "name": "b"}}]}}, "mutually exclusive"),
        ({"network": {"bonds": [{"name": "bond0", "mode": "balance-rr", "members": []}]}}, "802.3ad, active-backup"),
        ({"machines": [{"match": {}}]}, "one of the following is required: serial, mac"),
        ({"access": {"password": "x"}}, "access.password"),
    ],
)
def test_option_that_cannot_be_is_refused_by_its_name(options: dict[str, t.Any], words: str) -> None:
    assert words in " ".join(filled_in(options).error_messages)
