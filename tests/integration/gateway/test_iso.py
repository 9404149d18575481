# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``iso`` against a real gateway, with an image that has everything but what boots."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import read_slot

pytestmark = pytest.mark.slow


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "erp.iso"


@pytest.fixture
def run(modules: Any, organization: Any, template: Any, base_image: Path, dest: Path) -> Any:
    """Runs the module with what every test here needs; options replace it."""

    def call(**options: Any) -> dict[str, Any]:
        given = {"template": template["name"], "base": str(base_image), "dest": str(dest), **options}
        result: dict[str, Any] = modules("iso", token=organization.token, **given)
        return result

    return call


@pytest.fixture
def credentials(site: Any, template: Any) -> Any:
    """The states of the template's credentials, oldest first: True is revoked."""

    def read() -> list[bool]:
        items = site.call("GET", f"/templates/{template['id']}/iso-credentials")["items"]
        return [item["revoked_at"] is not None for item in reversed(items)]

    return read


def secret_of(path: Path) -> str:
    config = read_slot(path)
    assert config is not None
    return str(config["credential"])


def test_iso_registers_a_machine_only_where_its_organization_is_activated(
    site: Any, modules: Any, base_image: Path, dest: Path, machine: Any
) -> None:
    token = site.organization_token("not-activated")
    site.call("POST", "/templates", {"name": "erp", "destination": {"vdc": "vdc-1"}}, token=token)
    made = modules("iso", token=token, template="erp", base=str(base_image), dest=str(dest))
    assert made["changed"], made
    refused = register(site, secret_of(dest), machine("early"))
    assert refused.status_code == 403
    assert refused.json()["type"].endswith(":not-activated")
    site.activate("not-activated")
    assert register(site, secret_of(dest), machine("late")).status_code == 201


def registers(site: Any, credential: str) -> int:
    """Status of a registration with a credential (the body is refused, so nothing is registered): 422 or 401."""
    return register(site, credential, {}).status_code


def register(site: Any, credential: str, body: dict[str, Any]) -> requests.Response:
    """What the gateway says to an agent that registers."""
    return requests.post(
        f"{site.url}/api/v1/enrolments",
        json=body,
        headers={"Authorization": f"Bearer {credential}"},
        verify=str(site.ca),
        timeout=30,
    )


def test_iso_is_made_once(site: Any, run: Any, dest: Path, template: Any, credentials: Any) -> None:
    first = run(max_registrations=2)
    assert first["changed"], first
    config = read_slot(dest)
    assert config is not None
    assert config["template"] == {name: template[name] for name in ("id", "name", "organization")}
    assert config["site"] == {"url": site.url, "ca_pem": site.ca.read_text(), "proxy": None}
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert first["iso"]["path"] == str(dest)
    assert first["iso"]["size_bytes"] == dest.stat().st_size
    assert first["iso"]["credential"]["max_registrations"] == 2
    content = dest.read_bytes()

    second = run(max_registrations=2)
    assert not second["changed"], second
    assert second["iso"] == first["iso"]
    assert dest.read_bytes() == content
    assert credentials() == [False]
    assert registers(site, secret_of(dest)) == 422


def test_credential_is_in_the_file_and_nowhere_else(run: Any, dest: Path) -> None:
    results = [run(), run(), run(force=True), run(poweroff_when_done=True)]
    assert secret_of(dest) not in json.dumps(results)
    assert "cm1_iso_" not in json.dumps(results)


def test_check_mode_makes_nothing(site: Any, run: Any, dest: Path) -> None:
    before = site.content()
    result = run(_ansible_check_mode=True)
    assert result["changed"]
    assert result["iso"] is None
    assert not dest.exists()
    assert site.content() == before


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"poweroff_when_done": True}, {"poweroff_when_done"}),
        ({"proxy": "http://192.0.2.1:3128"}, {"site"}),
        ({"network": {"mode": "dhcp", "mtu": 1400}}, {"network"}),
        ({"console": {"serial": ""}}, {"console"}),
        ({"kernel_args": ["quiet"]}, {"kernel_args"}),
        ({"max_registrations": 1}, {"max_registrations"}),
        ({"force": True}, {"force"}),
    ],
)
def test_other_setting_makes_a_new_iso_and_revokes_the_old_credential(  # noqa: PLR0917 - fixtures
    site: Any, run: Any, dest: Path, credentials: Any, options: dict[str, Any], changed: set[str]
) -> None:
    run()
    old = secret_of(dest)
    result = run(**options)
    assert result["changed"], result
    assert set(result["diff"]["after"]) == changed
    assert credentials() == [True, False]
    assert registers(site, old) == 401
    assert registers(site, secret_of(dest)) == 422


def test_old_credential_can_be_kept(run: Any, credentials: Any) -> None:
    run()
    run(force=True, revoke_replaced=False)
    assert credentials() == [False, False]


def test_revoked_credential_makes_a_new_iso(site: Any, run: Any, template: Any) -> None:
    first = run()
    site.call("DELETE", f"/templates/{template['id']}/iso-credentials/{first['iso']['credential']['id']}")
    second = run()
    assert second["diff"] == {"before": {"credential": "revoked"}, "after": {"credential": "valid"}}
    assert not run()["changed"]


def test_used_up_credential_makes_a_new_iso(site: Any, run: Any, dest: Path) -> None:
    run(max_registrations=1)
    site.enrol(secret_of(dest), "only-one")
    result = run(max_registrations=1)
    assert result["diff"]["before"]["credential"] == "used up"


def test_open_mode_is_closed_again_without_a_new_credential(run: Any, dest: Path, credentials: Any) -> None:
    run()
    dest.chmod(0o644)
    result = run()
    assert result["changed"]
    assert result["diff"] == {"before": {"mode": "0644"}, "after": {"mode": "0600"}}
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert credentials() == [False]


def test_failed_write_revokes_the_fresh_credential_and_keeps_the_old_file(
    run: Any, dest: Path, credentials: Any, small_slot_image: Path
) -> None:
    run()
    content = dest.read_bytes()
    result = run(base=str(small_slot_image), force=True)
    assert result["failed"]
    assert "the image reserves 512" in result["msg"]
    assert dest.read_bytes() == content
    assert [path.name for path in dest.parent.glob("*erp.iso*")] == ["erp.iso"]
    assert credentials() == [False, True]


def test_absent_revokes_and_deletes(site: Any, run: Any, dest: Path, credentials: Any) -> None:
    run()
    secret, before = secret_of(dest), site.content()
    assert run(state="absent", _ansible_check_mode=True)["changed"]
    assert dest.exists()
    assert site.content() == before
    assert run(state="absent")["changed"]
    assert not dest.exists()
    assert registers(site, secret) == 401
    assert credentials() == [True]
    assert not run(state="absent")["changed"]


def test_absent_leaves_the_iso_of_another_template(run: Any, dest: Path, credentials: Any) -> None:
    run()
    result = run(state="absent", template="another")
    assert result["failed"]
    assert "not of 'another'; nothing was removed" in result["msg"]
    assert dest.exists()
    assert credentials() == [False]


@pytest.mark.parametrize("state", ["present", "absent"])
def test_file_that_is_no_iso_is_left_alone(run: Any, dest: Path, credentials: Any, state: str) -> None:
    dest.write_text("letters to my aunt")
    result = run(state=state)
    assert result["failed"]
    assert "it was left as it is" in result["msg"]
    assert dest.read_text() == "letters to my aunt"
    assert credentials() == []


def test_file_that_is_no_iso_is_replaced_with_force(run: Any, dest: Path) -> None:
    dest.write_text("letters to my aunt")
    assert run(force=True)["changed"]
    assert read_slot(dest) is not None


def test_iso_of_a_deleted_template_is_made_anew_under_another_one(
    site: Any, run: Any, organization: Any, template: Any
) -> None:
    run()
    site.call("DELETE", f"/templates/{template['id']}")
    refused = run()
    assert refused["failed"]
    assert refused["field"] == "template"
    body = {"name": template["name"], "destination": {"vdc": "vdc-1"}}
    site.call("POST", "/templates", body, token=organization.token)
    result = run()
    assert result["changed"]
    assert result["diff"]["before"]["credential"] == "unknown"


def test_template_of_another_organization_is_unknown(site: Any, run: Any, other_organization: Any, dest: Path) -> None:
    before = site.content()
    result = run(gateway_token=other_organization.token)
    assert result["failed"]
    assert result["field"] == "template"
    assert site.content() == before
    assert not dest.exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"credential_ttl_hours": 0}, "credential_ttl_hours: 0 is not valid: hours from 1 to 8760"),
        ({"max_registrations": 0}, "max_registrations: 0 is not valid"),
        (
            {"network": {"mode": "static"}},
            'network.interfaces: [] needs at least one interface when network.mode is "static"',
        ),
        ({"proxy": "ftp://x"}, "site.proxy.url: 'ftp://x' must be http://host:port"),
        ({"kernel_args": ["root=/dev/sda1"]}, "kernel_args[0]: 'root=/dev/sda1' is reserved"),
        ({"dest": "/nonexistent/erp.iso"}, "/nonexistent does not"),
        ({"base": "/nonexistent.iso"}, "/nonexistent.iso: cannot be read"),
    ],
)
def test_bad_option_is_named_and_no_credential_is_issued(
    run: Any, credentials: Any, options: dict[str, Any], text: str
) -> None:
    result = run(**options)
    assert result["failed"]
    assert text in result["msg"]
    assert credentials() == []


def test_dest_that_is_the_base_is_refused(run: Any, base_image: Path, credentials: Any) -> None:
    content = base_image.read_bytes()
    assert run(dest=str(base_image))["failed"]
    assert run(dest=str(base_image), force=True)["failed"]
    assert base_image.read_bytes() == content
    assert all(credentials())


def test_files_to_boot_from_the_network_follow_the_iso(run: Any, dest: Path, tmp_path: Path, credentials: Any) -> None:
    served = tmp_path / "http"
    served.mkdir()
    planned = run(netboot=str(served), check=True)
    assert planned["changed"]
    assert list(served.iterdir()) == []
    made = run(netboot=str(served))
    assert made["changed"], made
    files = made["iso"]["netboot"]
    assert files["script"] == str(served / "erp.ipxe")
    assert (served / "COLDMIG_2_0123456789ABCDEF/system.cpio").read_bytes() == b"system"
    assert secret_of(dest).encode() in Path(files["config"]).read_bytes()
    assert stat.S_IMODE(Path(files["config"]).stat().st_mode) == 0o600
    assert not run(netboot=str(served))["changed"]
    # What was lost comes back without a new credential; a new ISO brings its own.
    Path(files["config"]).unlink()
    again = run(netboot=str(served))
    assert again["diff"] == {"before": {"netboot": "absent"}, "after": {"netboot": "present"}}
    assert credentials() == [False]
    assert run(netboot=str(served), force=True)["changed"]
    assert secret_of(dest).encode() in Path(files["config"]).read_bytes()
    assert credentials() == [True, False]
    assert run(state="absent", netboot=str(served))["changed"]
    assert [path.name for path in served.iterdir()] == [".coldmig.lock"]


def test_directory_for_the_network_that_is_missing_costs_no_credential(
    run: Any, dest: Path, tmp_path: Path, credentials: Any
) -> None:
    failed = run(netboot=str(tmp_path / "missing"))
    assert failed["failed"]
    assert "is no directory" in failed["msg"]
    assert credentials() == []
    assert not dest.exists()
