# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source does at its end, and the logs that its agent sends then."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from sqlalchemy import func, select

from coldmig_gateway.store.models import AgentLogs
from gateway.sitekit import TEMPLATE, Caller, SiteKit

AT_END = {"success": "poweroff", "failure": "reboot"}


def _packed(text: bytes) -> dict[str, str]:
    return {"gzip": base64.b64encode(gzip.compress(text)).decode()}


@pytest.fixture
def acme(site: SiteKit) -> Caller:
    site.activate("acme")
    return site.tenant("acme")


def _boot(site: SiteKit, acme: Caller, **settings: Any) -> tuple[str, str, Caller]:
    template = acme.ok("POST", "/templates", TEMPLATE | settings)["id"]
    return (template, *site.enrol(site.iso(acme, template)))


def test_an_agent_is_told_what_the_template_said_when_it_registered(site: SiteKit, acme: Caller) -> None:
    template, migration, agent = _boot(site, acme, at_end=AT_END, collect_logs=True)
    acme.ok("PUT", f"/templates/{template}", TEMPLATE | {"at_end": {"failure": "stay"}})
    told = agent.ok("GET", "/session")
    assert (told["at_end"], told["collect_logs"]) == (AT_END, True)
    seen = acme.ok("GET", f"/migrations/{migration}")
    assert (seen["at_end"], seen["collect_logs"]) == (AT_END, True)
    made = acme.ok("GET", f"/templates/{template}")
    assert (made["at_end"], made["collect_logs"]) == ({"success": None, "failure": "stay"}, False)


def test_without_a_setting_nothing_is_said_of_the_end(site: SiteKit, acme: Caller) -> None:
    _, _, agent = _boot(site, acme)
    told = agent.ok("GET", "/session")
    assert (told["at_end"], told["collect_logs"]) == ({"success": None, "failure": None}, False)


@pytest.mark.parametrize("at_end", [{"success": "halt"}, {"always": "stay"}, "stay"], ids=str)
def test_an_end_that_there_is_not_is_refused(acme: Caller, at_end: Any) -> None:
    acme.problem(422, "validation", "POST", "/templates", TEMPLATE | {"at_end": at_end})


def test_logs_are_read_by_their_organization_and_go_with_the_migration(site: SiteKit, acme: Caller) -> None:
    _, migration, agent = _boot(site, acme, collect_logs=True)
    path = f"/migrations/{migration}/logs"
    acme.problem(404, "not-found", "GET", path)
    agent.ok("PUT", "/session/logs", _packed(b"first"))
    agent.ok("POST", "/session/failure", {"reason": "read-error", "detail": "sda"})
    agent.ok("PUT", "/session/logs", _packed("zweite \N{SNOWMAN}\n".encode()))  # it has ended, and may still tell why
    for reader in (acme, site.provider):
        assert reader.ok("GET", path)["text"] == "zweite \N{SNOWMAN}\n"
    acme.ok("DELETE", f"/migrations/{migration}")
    acme.problem(404, "not-found", "GET", path)
    with site.context.database.read() as session:
        assert session.scalar(select(func.count()).select_from(AgentLogs)) == 0


def test_logs_that_nobody_asked_for_are_refused(site: SiteKit, acme: Caller) -> None:
    _, migration, agent = _boot(site, acme)
    agent.problem(409, "logs-not-wanted", "PUT", "/session/logs", _packed(b"x"))
    acme.problem(404, "not-found", "GET", f"/migrations/{migration}/logs")


def test_what_a_terminal_would_obey_is_taken_out(site: SiteKit, acme: Caller) -> None:
    _, migration, agent = _boot(site, acme, collect_logs=True)
    agent.ok("PUT", "/session/logs", _packed(b"a\tb\r\n\x1b[2J\xff\x9b31m\xc2\x9b\x00end\n"))
    text = acme.ok("GET", f"/migrations/{migration}/logs")["text"]
    assert text == "a\tb\N{REPLACEMENT CHARACTER}\n\N{REPLACEMENT CHARACTER}[2J" + "\N{REPLACEMENT CHARACTER}" * 2 + (
        "31m" + "\N{REPLACEMENT CHARACTER}" * 2 + "end\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"x" * 100)[:-3],
        gzip.compress(b"a") + gzip.compress(b"b"),
        gzip.compress(bytes((8 << 20) + 1)),
        b"",
    ],
    ids=["not gzip", "cut", "two streams", "a bomb", "nothing"],
)
def test_logs_that_are_not_one_bounded_stream_are_refused(site: SiteKit, acme: Caller, content: bytes) -> None:
    _, migration, agent = _boot(site, acme, collect_logs=True)
    body = {"gzip": base64.b64encode(content).decode()}
    problem = agent.problem(422, "validation", "PUT", "/session/logs", body)
    assert problem["errors"][0]["field"] == "gzip"
    agent.problem(422, "validation", "PUT", "/session/logs", {"gzip": "no base64!"})
    agent.problem(422, "validation", "PUT", "/session/logs", {"gzip": "A" * 1_000_001})
    acme.problem(404, "not-found", "GET", f"/migrations/{migration}/logs")
