# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import HttpError, InputError, ProtocolError
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient

TOKEN = "cm1_pro_" + "a" * 43
ID = "8a9df7ab-5dd7-4d3c-9f6e-0f7a0d4f6f11"


@pytest.fixture
def gateway(https_server: t.Any, pki: t.Any) -> t.Iterator[GatewayClient]:
    with GatewayClient(https_server.url, TOKEN, ca_path=str(pki.ca), timeout=5) as client:
        yield client


def test_list_is_read_page_by_page(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    https_server.says(
        answer(200, {"items": [{"id": "1"}, {"id": "2"}], "next": "a/b="}),
        answer(200, {"items": [{"id": "3"}], "next": None}),
    )
    assert [item["id"] for item in gateway.migrations(states=["waiting", "copied"], template="erp")] == ["1", "2", "3"]
    first, second = https_server.requests
    assert first.path == "/api/v1/migrations?state=waiting&state=copied&template=erp&limit=200"
    assert second.path == first.path + "&after=a%2Fb%3D"


def test_list_without_items_is_an_error(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    https_server.says(answer(200, {"result": []}))
    with pytest.raises(ProtocolError, match="the list has no items"):
        list(gateway.templates())


def test_unknown_object_is_none(gateway: GatewayClient) -> None:
    assert gateway.template(ID) is None
    assert gateway.migration(ID) is None


def test_other_refusals_are_errors(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    https_server.says(answer(403, {"title": "Forbidden"}))
    with pytest.raises(HttpError, match="403 Forbidden"):
        gateway.template(ID)


def test_deleting_what_is_gone_is_fine(https_server: t.Any, gateway: GatewayClient) -> None:
    gateway.delete_template(ID)
    assert https_server.requests[0].method == "DELETE"


def test_name_cannot_leave_its_place_in_the_path(https_server: t.Any, gateway: GatewayClient) -> None:
    gateway.template("../activation?x=1")
    assert https_server.requests[0].path == "/api/v1/templates/..%2Factivation%3Fx%3D1"


def test_template_of_several_organizations_must_be_told_apart(
    https_server: t.Any, gateway: GatewayClient, answer: t.Any
) -> None:
    both = [{"id": "1", "name": "erp", "organization": "b"}, {"id": "2", "name": "erp", "organization": "a"}]
    https_server.says(answer(200, {"items": both, "next": None}))
    with pytest.raises(InputError, match=r"organization: None is not valid: several have a template 'erp'.*: a, b"):
        gateway.find_template_by_name("erp")


def test_template_is_found_by_id_within_its_organization_only(
    https_server: t.Any, gateway: GatewayClient, answer: t.Any
) -> None:
    found = {"id": ID, "name": "erp", "organization": "a"}
    https_server.says(answer(200, found))
    assert gateway.find_template(ID, "a") == found
    https_server.says(answer(200, found), answer(200, {"items": [], "next": None}))
    assert gateway.find_template(ID, "b") is None


def test_migration_is_found_by_its_whole_name(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    listed = [{"id": "1", "name": "erp-db-01", "state": "waiting"}, {"id": "2", "name": "erp-db", "state": "failed"}]
    https_server.says(answer(200, {"items": listed, "next": None}))
    found = gateway.find_migration("erp-db")
    assert found is not None
    assert found["id"] == "2"


def test_name_of_several_migrations_is_refused_with_their_ids(
    https_server: t.Any, gateway: GatewayClient, answer: t.Any
) -> None:
    listed = [{"id": "1", "name": "erp", "state": "waiting"}, {"id": "2", "name": "erp", "state": "failed"}]
    https_server.says(answer(200, {"items": listed, "next": None}))
    with pytest.raises(InputError, match=r"several have this name, give an id: 1 \(waiting\), 2 \(failed\)"):
        gateway.find_migration("erp")


def test_image_is_streamed_with_its_exact_length(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    content = bytes(range(256)) * 5000
    https_server.says(answer(200, body=content, headers={"Content-Type": "application/octet-stream"}))
    with gateway.image(ID, 1) as image:
        assert image.length == len(content)
        assert b"".join(image.blocks(100_000)) == content
    (seen,) = https_server.requests
    assert seen.path == f"/data/v1/migrations/{ID}/disks/1/image.vmdk"
    assert seen.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("token", ["", "secret", "cm1_xyz_" + "a" * 43, "cm1_pro_short", "cm1_pro_" + "a" * 43 + "\n"])
def test_token_that_cannot_be_one_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(InputError) as caught:
        GatewayClient("https://gw", token)
    assert caught.value.field == "gateway_token"
    assert "secret" not in str(caught.value)


def test_token_is_sent_as_bearer(https_server: t.Any, gateway: GatewayClient, answer: t.Any) -> None:
    https_server.says(answer(200, {"active": True, "organizations": []}))
    gateway.activation()
    assert https_server.requests[0].headers["Authorization"] == f"Bearer {TOKEN}"
