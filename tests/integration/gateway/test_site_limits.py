# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``site_limits`` against a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow

NO_LIMITS = {"bandwidth_limit": None, "max_concurrent_copies": None}


@pytest.fixture(autouse=True)
def limits_as_they_were(site: Any) -> Iterator[None]:
    yield
    site.call("PATCH", "/site/limits", NO_LIMITS)


def test_sets_limits_once_and_tells_what_changed(site: Any, modules: Any) -> None:
    first = modules("site_limits", bandwidth_limit=1 << 20, max_concurrent_copies=2)
    assert first["changed"]
    assert first["diff"] == {"before": NO_LIMITS, "after": {"bandwidth_limit": 1 << 20, "max_concurrent_copies": 2}}
    assert first["limits"]["changed_by"].startswith("provider")
    second = modules("site_limits", bandwidth_limit=1 << 20, max_concurrent_copies=2)
    assert not second["changed"]
    assert site.call("GET", "/site/limits")["max_concurrent_copies"] == 2


def test_what_is_left_out_stays_and_zero_takes_a_limit_away(modules: Any) -> None:
    modules("site_limits", bandwidth_limit=1 << 20, max_concurrent_copies=2)
    result = modules("site_limits", bandwidth_limit=0)
    assert result["changed"]
    assert (result["limits"]["bandwidth_limit"], result["limits"]["max_concurrent_copies"]) == (None, 2)
    assert not modules("site_limits", bandwidth_limit=0)["changed"]
    assert not modules("site_limits")["changed"]


def test_check_mode_writes_nothing(site: Any, modules: Any) -> None:
    before = site.content()
    result = modules("site_limits", check=True, max_concurrent_copies=2)
    assert result["changed"]
    assert result["limits"]["max_concurrent_copies"] == 2
    assert site.content() == before


def test_bad_limit_is_named(site: Any, modules: Any) -> None:
    before = site.content()
    result = modules("site_limits", bandwidth_limit=1000)
    assert result["failed"]
    assert (result["field"], "65536" in result["msg"]) == ("bandwidth_limit", True)
    assert site.content() == before


def test_tenant_may_not_see_the_limits_of_the_site(modules: Any, organization: Any) -> None:
    result = modules("site_limits", token=organization.token)
    assert result["failed"]
    assert result["http_status"] == 403
