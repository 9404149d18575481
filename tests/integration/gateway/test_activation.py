# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``activation`` against a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def activation_as_it_was(site: Any) -> Iterator[None]:
    before = site.call("GET", "/activation")
    yield
    site.call("PUT", "/activation", {"active": before["active"], "organizations": before["organizations"]})


def test_activates_once_and_tells_what_changed(site: Any, modules: Any) -> None:
    site.call("PUT", "/activation", {"active": False, "organizations": []})
    first = modules("activation", organizations=["globex", "acme"])
    assert first["changed"]
    assert first["diff"] == {
        "before": {"active": False, "organizations": []},
        "after": {"active": True, "organizations": ["acme", "globex"]},
    }
    assert first["activation"]["organizations"] == ["acme", "globex"]
    second = modules("activation", organizations=["acme", "globex", "acme"])
    assert not second["changed"]


def test_organizations_stay_when_they_are_not_given(site: Any, modules: Any) -> None:
    site.call("PUT", "/activation", {"active": True, "organizations": ["acme"]})
    result = modules("activation", state="deactivated")
    assert result["changed"]
    assert site.call("GET", "/activation")["organizations"] == ["acme"]
    assert not site.call("GET", "/activation")["active"]


def test_check_mode_writes_nothing(site: Any, modules: Any) -> None:
    site.call("PUT", "/activation", {"active": False, "organizations": []})
    before = site.content()
    result = modules("activation", check=True, organizations=["acme"])
    assert result["changed"]
    assert result["activation"]["active"]
    assert site.content() == before


def test_bad_name_of_an_organization_is_named(site: Any, modules: Any) -> None:
    before = site.content()
    result = modules("activation", organizations=["acme", "no spaces"])
    assert result["failed"]
    assert result["field"] == "organizations[1]"
    assert "'no spaces'" in result["msg"]
    assert site.content() == before


def test_tenant_may_not_activate(site: Any, modules: Any, organization: Any) -> None:
    before = site.content()
    result = modules("activation", token=organization.token, state="deactivated")
    assert result["failed"]
    assert result["http_status"] == 403
    assert site.content() == before
