# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may do what, over every operation of the OpenAPI document."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from coldmig_gateway.api.app import PREFIX, openapi_document
from gateway.sitekit import MACHINE, TEMPLATE, Caller, SiteKit, running_site

FINISH = {"vcenter": {"vm": "vm-42", "name": "x"}}
FAILURE = {"reason": "some-reason", "detail": "text"}
LOGS = {"gzip": base64.b64encode(gzip.compress(b"a line")).decode()}
TENANT = {"provider", "organization"}
ALL = {*TENANT, "iso", "session"}

# operation: (roles that may call it, a good body)
OPERATIONS: dict[str, tuple[set[str], Any]] = {
    "GET /site": (ALL, None),
    "GET /site/limits": ({"provider"}, None),
    "PATCH /site/limits": ({"provider"}, {"bandwidth_limit": 1 << 20}),
    "GET /activation": (TENANT, None),
    "PUT /activation": ({"provider"}, {"active": True}),
    "POST /tokens": ({"provider"}, {"organization": "acme"}),
    "GET /tokens": ({"provider"}, None),
    "DELETE /tokens/{token_id}": ({"provider"}, None),
    "GET /templates": (TENANT, None),
    "POST /templates": (TENANT, TEMPLATE | {"name": "another"}),
    "GET /templates/{template_id}": (TENANT, None),
    "PUT /templates/{template_id}": (TENANT, TEMPLATE),
    "DELETE /templates/{template_id}": (TENANT, None),
    "POST /templates/{template_id}/iso-credentials": (TENANT, {}),
    "GET /templates/{template_id}/iso-credentials": (TENANT, None),
    "GET /templates/{template_id}/iso-credentials/{credential_id}": (TENANT, None),
    "DELETE /templates/{template_id}/iso-credentials/{credential_id}": (TENANT, None),
    "POST /enrolments": ({"iso"}, MACHINE),
    "GET /session": ({"session"}, None),
    "POST /session/progress": ({"session"}, {"phase": "waiting"}),
    "POST /session/unreadable": ({"session"}, {"disks": [{"index": 0, "bytes": 512, "ranges": [[0, 512]]}]}),
    "POST /session/failure": ({"session"}, FAILURE),
    "PUT /session/logs": ({"session"}, LOGS),
    "GET /migrations": (TENANT, None),
    "GET /migrations/{migration_id}": (TENANT, None),
    "PATCH /migrations/{migration_id}": (TENANT, {"name": "other"}),
    "DELETE /migrations/{migration_id}": (TENANT, None),
    "POST /migrations/{migration_id}/confirm": (TENANT, None),
    "POST /migrations/{migration_id}/cancel": (TENANT, {"reason": "no"}),
    "GET /migrations/{migration_id}/audit": (TENANT, None),
    "GET /migrations/{migration_id}/logs": (TENANT, None),
    "POST /migrations/{migration_id}/import": ({"provider"}, {"run": "1"}),
    "POST /migrations/{migration_id}/finish": ({"provider"}, FINISH),
    "POST /migrations/{migration_id}/fail": ({"provider"}, FAILURE),
    "POST /migrations/{migration_id}/claim": ({"provider"}, {"run": "job", "holder": "12345678"}),
    "POST /migrations/{migration_id}/release": ({"provider"}, {"holder": "12345678"}),
    "POST /migrations/{migration_id}/undone": ({"provider"}, {"run": "job"}),
    "PUT /migrations/{migration_id}/checks/{name}": (TENANT, {"passed": True}),
    "PATCH /migrations/{migration_id}/destination-refs": ({"provider"}, {"vcenter_vm": "vm-1"}),
}
OPEN = {"GET /health"}
WITH_IDS = [operation for operation, (roles, _) in OPERATIONS.items() if "{" in operation and "organization" in roles]
# What an organization sends without naming a thing of its own by id; the rest of the list is covered above.
LISTS = ["/templates", "/migrations", "/templates?organization=acme", "/migrations?organization=acme", "/activation"]


@dataclass
class Owned:
    """What organization acme has, and its four kinds of token."""

    ids: dict[str, str]
    callers: dict[str, Caller]

    def send(self, caller: Caller, operation: str, body: Any) -> Any:
        """The answer to an operation on acme's things."""
        method, path = operation.split(" ")
        return caller.request(method, path.format(name="preflight", **self.ids), body)


def _make_owned(site: SiteKit) -> Owned:
    site.activate("acme", "globex")
    acme = site.tenant("acme")
    template = acme.ok("POST", "/templates", TEMPLATE | {"name": "zeta-plan", "collect_logs": True})["id"]
    credential = acme.ok("POST", f"/templates/{template}/iso-credentials", {"description": "zeta-iso"})
    iso = site.caller(credential["credential"])
    migration, agent = site.enrol(iso, name="zeta-host")
    agent.ok("PUT", "/session/logs", LOGS)
    token = site.provider.ok("GET", "/tokens")["items"][0]["id"]
    return Owned(
        ids={
            "template_id": template,
            "credential_id": credential["id"],
            "migration_id": migration,
            "token_id": token,
        },
        callers={"provider": site.provider, "organization": acme, "iso": iso, "session": agent},
    )


@pytest.fixture
def owned(site: SiteKit) -> Owned:
    return _make_owned(site)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteKit]:
    """For requests that are refused and so change nothing; the last test of this module makes sure of that."""
    with running_site(tmp_path_factory.mktemp("shared")) as kit:
        yield kit


@pytest.fixture(scope="module")
def shared(shared_site: SiteKit) -> Owned:
    return _make_owned(shared_site)


@pytest.fixture(scope="module")
def globex(shared_site: SiteKit, shared: Owned) -> Caller:
    return shared_site.tenant("globex")


def test_the_tables_of_this_file_name_every_operation() -> None:
    document = openapi_document()
    known = {
        f"{method.upper()} {path.removeprefix(PREFIX)}" for path, item in document["paths"].items() for method in item
    }
    assert known == set(OPERATIONS) | OPEN


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_works_without_a_token(shared_site: SiteKit, shared: Owned, operation: str) -> None:
    answer = shared.send(shared_site.nobody, operation, OPERATIONS[operation][1])
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:coldmig:problem:unauthenticated")


@pytest.mark.parametrize(
    ("operation", "role"),
    [(operation, role) for operation, (roles, _) in OPERATIONS.items() for role in sorted(ALL - roles)],
)
def test_a_role_cannot_do_what_it_may_not(shared: Owned, operation: str, role: str) -> None:
    answer = shared.send(shared.callers[role], operation, OPERATIONS[operation][1])
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:coldmig:problem:forbidden")


@pytest.mark.parametrize(
    ("operation", "role"), [(operation, role) for operation, (roles, _) in OPERATIONS.items() for role in sorted(roles)]
)
def test_a_role_can_do_what_it_may(owned: Owned, operation: str, role: str) -> None:
    body = OPERATIONS[operation][1]
    if operation == "POST /templates" and role == "provider":
        body = body | {"organization": "acme"}
    answer = owned.send(owned.callers[role], operation, body)
    # wrong-state: it may, but not in the state in which the migration is
    assert answer.is_success or answer.json()["type"] == "urn:coldmig:problem:wrong-state"


@pytest.mark.parametrize("operation", WITH_IDS)
def test_what_belongs_to_another_organization_does_not_exist(globex: Caller, shared: Owned, operation: str) -> None:
    """The answer is the same, word for word, as for an id that was never given out."""
    body = OPERATIONS[operation][1]
    before = _everything(shared)
    answer = shared.send(globex, operation, body)
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:coldmig:problem:not-found")
    invented = dict.fromkeys(shared.ids, "11111111-2222-3333-4444-555555555555")
    unknown = Owned(invented, {}).send(globex, operation, body)
    text = answer.text
    for name, identifier in shared.ids.items():
        text = text.replace(identifier, invented[name])
    assert text == unknown.text
    assert _everything(shared) == before


@pytest.mark.parametrize("path", LISTS)
def test_lists_hold_nothing_of_another_organization(globex: Caller, shared: Owned, path: str) -> None:
    answer = globex.request("GET", path)
    assert answer.is_success
    for word in ("acme", "zeta", *shared.ids.values()):
        assert word not in answer.text


def test_a_credential_of_one_template_cannot_be_reached_through_another(site: SiteKit, owned: Owned) -> None:
    globex = site.tenant("globex")
    own = globex.ok("POST", "/templates", TEMPLATE)["id"]
    for method in ("GET", "DELETE"):
        globex.problem(404, "not-found", method, f"/templates/{own}/iso-credentials/{owned.ids['credential_id']}")


def test_a_name_taken_by_another_organization_is_not_noticed(site: SiteKit, owned: Owned) -> None:
    site.tenant("globex").ok("POST", "/templates", TEMPLATE | {"name": "zeta-plan"})


def test_an_agent_reaches_only_its_own_migration(site: SiteKit, owned: Owned) -> None:
    other, agent = site.enrol(owned.callers["iso"])
    agent.ok("POST", "/session/failure", FAILURE)
    states = {item["id"]: item["state"] for item in site.provider.ok("GET", "/migrations")["items"]}
    assert states == {other: "failed", owned.ids["migration_id"]: "waiting"}


def test_what_was_refused_has_changed_nothing(shared_site: SiteKit, shared: Owned) -> None:
    templates, migrations, credentials, trail = _everything(shared)
    assert len(templates["items"]) == len(migrations["items"]) == len(credentials["items"]) == 1
    assert (migrations["items"][0]["state"], migrations["items"][0]["progress"]) == ("waiting", None)
    assert [entry["event"] for entry in trail["items"]] == ["enrol", "logs"]
    assert len(shared_site.provider.ok("GET", "/templates")["items"]) == 1
    assert shared_site.provider.ok("GET", "/activation")["organizations"] == ["acme", "globex"]


def _everything(owned: Owned) -> list[Any]:
    acme = owned.callers["organization"]
    paths = ["/templates", "/migrations", f"/templates/{owned.ids['template_id']}/iso-credentials"]
    return [acme.ok("GET", path) for path in [*paths, f"/migrations/{owned.ids['migration_id']}/audit"]]
