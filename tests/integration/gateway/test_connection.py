# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module says when it cannot talk to the gateway as it was told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_wrong_ca_is_named(modules: Any, tmp_path: Path, site: Any) -> None:
    missing = modules("template_info", ca=tmp_path / "missing.pem")
    assert missing["failed"]
    assert missing["field"] == "gateway_ca_path"
    system = modules("template_info", gateway_ca_path=None)
    assert system["failed"]
    assert "certificate not accepted" in system["msg"]
    assert site.url in system["msg"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gateway_url": "http://127.0.0.1"}, "gateway_url"),
        ({"gateway_url": "https://127.0.0.1/api"}, "gateway_url"),
        ({"gateway_token": "hunter2"}, "gateway_token"),
    ],
)
def test_bad_connection_option_is_named(modules: Any, options: dict[str, Any], field: str) -> None:
    result = modules("migration_info", **options)
    assert result["failed"]
    assert result["field"] == field
    assert "hunter2" not in str(result)


def test_unknown_token_is_refused_without_being_shown(modules: Any) -> None:
    token = "cm1_org_" + "x" * 43
    result = modules("migration_info", token=token)
    assert result["failed"]
    assert result["http_status"] == 401
    assert token not in str(result)
