# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_config as vc
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_target as vt
from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_xml as vx
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError, ProtocolError
from ansible_collections.cda.coldmig.plugins.module_utils._http import Response
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import (
    DestinationError,
    TaskFailedError,
    Vcd,
    VcdError,
    choose_version,
    equals,
    is_uncertain,
    same_entity,
)
from ansible_collections.cda.coldmig.plugins.module_utils._vcd_login import Credentials

NS = 'xmlns="http://www.vmware.com/vcloud/v1.5"'
BUSY = f'<Error {NS} majorErrorCode="400" minorErrorCode="BUSY_ENTITY" message="busy with VAPP_UPDATE_VM"/>'
BROKEN = f'<Error {NS} majorErrorCode="500" minorErrorCode="INTERNAL_SERVER_ERROR" message="host esx-7 is broken"/>'
URL = "https://vcd.example.com"


class Wire:
    """Answers in order, in the place of the network; keeps what was asked."""

    def __init__(self, *answers: tuple[int, str] | tuple[int, str, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Mapping[str, str], bytes | None]] = []
        self.headers: dict[str, str] = {}

    def exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        data: bytes | None,
        params: Any,
        repeatable: bool | None = None,
    ) -> Response:
        self.asked.append((method, path, headers, data))
        status, body, *extra = self.answers.pop(0)
        return Response(method, URL + path, status, dict(*extra), body.encode())

    def set_header(self, name: str, value: str) -> None:
        self.headers[name] = value

    def close(self) -> None:
        pass


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


PASSWORD = Credentials("System", user="administrator", password="secret")


def client(
    *answers: tuple[int, str] | tuple[int, str, dict[str, str]], login: Credentials = PASSWORD, **options: Any
) -> tuple[Vcd, Wire, Clock]:
    clock = Clock()
    vcd = Vcd(URL, login, sleep=clock.sleep, clock=clock, **options)
    wire = Wire(*answers)
    vcd._http = wire  # type: ignore[assignment]
    vcd.version = "38.1"
    return vcd, wire, clock


def task(status: str, error: str = "") -> str:
    return f'<Task {NS} status="{status}" href="{URL}/api/task/1" operation="o">{error}</Task>'


def versions(*supported: str, deprecated: tuple[str, ...] = ()) -> str:
    entries = [(version, "false") for version in supported] + [(version, "true") for version in deprecated]
    infos = "".join(
        f'<VersionInfo deprecated="{old}"><Version>{version}</Version></VersionInfo>' for version, old in entries
    )
    return f'<SupportedVersions xmlns="http://www.vmware.com/vcloud/versions">{infos}</SupportedVersions>'


def test_newest_common_version_is_chosen_and_a_deprecated_one_only_without_another() -> None:
    assert choose_version(vx.ApiVersions(("40.0", "38.1", "37.2"))) == "38.1"
    assert choose_version(vx.ApiVersions(("40.0",), ("36.3", "35.0"))) == "36.3"
    with pytest.raises(VcdError, match=r"offers the API versions 40\.0; one from 36\.0 to 39\.1 is needed"):
        choose_version(vx.ApiVersions(("40.0",), ("35.2",)))


def test_provider_and_tenant_log_in_at_cloudapi() -> None:
    token = {"x-vmware-vcloud-access-token": "jwt"}
    vcd, wire, _unused = client((200, versions("38.1")), (200, "{}", token))
    vcd.login()
    method, path, headers, _unused = wire.asked[1]
    assert (method, path) == ("POST", "/cloudapi/1.0.0/sessions/provider")
    assert headers["Accept"] == "application/json;version=38.1"
    assert headers["Authorization"].startswith("Basic ")
    assert wire.headers == {"Authorization": "Bearer jwt"}


def test_api_token_is_exchanged_and_never_in_a_url() -> None:
    vcd, wire, _unused = client(
        (200, versions("38.1")),
        (200, json.dumps({"access_token": "jwt"})),
        login=Credentials("System", api_token="t0ken"),
    )
    vcd.login()
    _unused, path, _unused, body = wire.asked[1]
    assert path == "/oauth/provider/token"
    assert body == b"grant_type=refresh_token&refresh_token=t0ken"
    assert all("t0ken" not in asked[1] for asked in wire.asked)


def test_refused_credentials_name_user_and_organization_but_not_the_password() -> None:
    vcd, _unused, _unused = client((200, versions("38.1")), (401, ""))
    with pytest.raises(VcdError, match="does not accept user 'administrator' with this password") as caught:
        vcd.login()
    assert "secret" not in str(caught.value)


def test_wrong_server_is_suspected_when_the_answer_is_no_xml() -> None:
    vcd, _unused, _unused = client((200, "<html>hello"))
    with pytest.raises(ProtocolError, match="is this the URL of Cloud Director"):
        vcd.login()


def test_credentials_are_demanded() -> None:
    with pytest.raises(InputError, match="vcd_user"):
        Credentials("System", user="only")


def test_busy_entity_is_tried_again_although_its_status_is_400() -> None:
    vcd, wire, clock = client((400, BUSY), (400, BUSY), (200, task("success")))
    vcd.run("PUT", f"{URL}/api/vApp/vm-1/x/", what="w", timeout=60, media="m", body=b"")
    assert len(wire.asked) == 3
    assert len(clock.slept) == 2


def test_busy_entity_is_given_up_after_the_timeout() -> None:
    vcd, _unused, clock = client(*[(400, BUSY)] * 100, busy_timeout=30)
    with pytest.raises(VcdError, match=r"w: busy with VAPP_UPDATE_VM \(BUSY_ENTITY\)"):
        vcd.api("PUT", "/api/x", what="w")
    assert clock.now <= 30


def test_other_refusal_is_not_repeated_and_names_the_request() -> None:
    body = f'<Error {NS} majorErrorCode="400" minorErrorCode="BAD_REQUEST" message="no"/>'
    vcd, wire, _unused = client((400, body, {"X-VMWARE-VCLOUD-REQUEST-ID": "coldmig-1-abc"}))
    with pytest.raises(VcdError, match=r"setting x: no \(BAD_REQUEST\) \[request coldmig-1-abc\]") as caught:
        vcd.api("PUT", "/api/x", what="setting x")
    assert len(wire.asked) == 1
    assert caught.value.details() == {
        "http_status": 400, "vcd_error": "BAD_REQUEST", "vcd_request_id": "coldmig-1-abc",
        "tenant_msg": "Cloud Director could not do it (BAD_REQUEST) [request coldmig-1-abc]",
    }  # fmt: skip


def test_trouble_of_the_server_is_waited_for_where_the_request_may_be_repeated() -> None:
    for method, repeatable in (("GET", None), ("PUT", None), ("DELETE", None), ("POST", True)):
        vcd, wire, _unused = client((500, BROKEN), (503, ""), (200, "done"))
        assert vcd.api(method, "/api/x", what="w", repeatable=repeatable) == b"done"
        assert len(wire.asked) == 3
    vcd, wire, clock = client(*[(500, BROKEN)] * 100)
    with pytest.raises(VcdError, match="host esx-7 is broken"):
        vcd.api("GET", "/api/x", what="w")
    assert len(wire.asked) == 6
    assert clock.now < 60


def test_trouble_of_the_server_ends_a_request_that_may_have_been_done() -> None:
    vcd, wire, _unused = client((500, BROKEN), (200, "done"))
    with pytest.raises(VcdError) as caught:
        vcd.api("POST", "/api/x", what="w")
    assert is_uncertain(caught.value)
    assert len(wire.asked) == 1


def test_session_that_ended_is_opened_again_once() -> None:
    token = {"x-vmware-vcloud-access-token": "second"}
    vcd, wire, _unused = client((401, ""), (200, "{}", token), (200, "done"))
    vcd._token = "first"
    assert vcd.api("POST", "/api/x", what="w") == b"done"
    assert [asked[1] for asked in wire.asked] == ["/api/x", "/cloudapi/1.0.0/sessions/provider", "/api/x"]
    assert wire.headers == {"Authorization": "Bearer second"}
    vcd, wire, _unused = client((401, ""), (200, "{}", token), (401, ""))
    vcd._token = "first"
    with pytest.raises(VcdError, match="the session is not valid any more"):
        vcd.api("GET", "/api/x", what="w")
    assert len(wire.asked) == 3


def test_task_that_finds_something_busy_is_begun_again() -> None:
    error = '<Error majorErrorCode="400" minorErrorCode="X" message="network:1 is busy completing an operation"/>'
    vcd, wire, _unused = client((200, task("error", error)), (200, task("success")))
    vcd.run("POST", "/api/x", what="w", timeout=60)
    assert len(wire.asked) == 2


def test_tenant_reads_vcd_s_text_for_tenants_or_one_that_says_nothing() -> None:
    def text(body: str, login: Credentials = PASSWORD) -> str:
        vcd, _unused, _unused = client((400, body), login=login)
        with pytest.raises(VcdError) as caught:
            vcd.api("PUT", "/api/x", what="importing VM vm-42")
        assert "esx-7" in str(caught.value)
        return str(caught.value.details()["tenant_msg"])

    inner = '<TenantError majorErrorCode="400" minorErrorCode="E" message="no room"/>'
    start = f'<Error {NS} majorErrorCode="400" minorErrorCode="E" message="esx-7 is full"'
    assert text(f"{start}>{inner}</Error>") == "no room"
    assert text(f"{start}/>") == "Cloud Director could not do it (E)"
    # what VCD says to a tenant's own session is for tenants
    assert text(f"{start}/>", Credentials("acme", api_token="t")) == "esx-7 is full"


def test_every_request_has_an_id_of_its_own() -> None:
    vcd, wire, _unused = client((200, ""), (200, ""))
    vcd.api("GET", "/api/a", what="a")
    vcd.api("GET", "/api/b", what="b")
    ids = [headers["X-VMWARE-VCLOUD-CLIENT-REQUEST-ID"] for _unused, _unused, headers, _unused in wire.asked]
    assert len(set(ids)) == 2


def test_token_goes_to_no_other_server() -> None:
    vcd, wire, _unused = client()
    with pytest.raises(VcdError, match="which is another server"):
        vcd.api("GET", "https://elsewhere.example.com/api/x", what="w")
    with pytest.raises(VcdError, match="which is another server"):
        vcd.api("GET", f"{URL}.example.net/api/x", what="w")
    assert wire.asked == []


def test_task_is_waited_for_with_growing_pauses() -> None:
    vcd, _unused, clock = client((200, task("queued")), *[(200, task("running"))] * 8, (200, task("success")))
    vcd.run("POST", "/api/x", what="w", timeout=100)
    assert clock.slept == sorted(clock.slept)
    assert clock.slept[-1] == 5.0


def test_task_that_does_not_end_is_given_up() -> None:
    vcd, _unused, _unused = client(*[(200, task("running"))] * 100)
    with pytest.raises(VcdError, match="the task is still 'running' after 20 seconds"):
        vcd.run("POST", "/api/x", what="w", timeout=20)


@pytest.mark.parametrize("status", ["error", "canceled", "aborted"])
def test_task_that_ends_badly_is_an_error(status: str) -> None:
    error = '<Error majorErrorCode="500" minorErrorCode="E" message="boom"/>' if status == "error" else ""
    vcd, _unused, _unused = client((200, task(status, error)))
    with pytest.raises(TaskFailedError, match="w: boom" if error else f"w: the task was {status}"):
        vcd.run("POST", "/api/x", what="w", timeout=20)


def test_query_follows_its_pages() -> None:
    first = (
        f'<QueryResultRecords {NS}><Link rel="nextPage" href="{URL}/api/query?page=2"/>'
        '<AdminVMRecord name="a"/></QueryResultRecords>'
    )
    second = f'<QueryResultRecords {NS}><AdminVMRecord name="b"/></QueryResultRecords>'
    vcd, wire, _unused = client((200, first), (200, second))
    assert [record["name"] for record in vcd.query("adminVM", "moref==vm-1", what="w")] == ["a", "b"]
    assert wire.asked[0][1] == "/api/query?type=adminVM&format=records&page=1&pageSize=128&filter=(moref==vm-1)"


def test_search_goes_on_without_a_filter_that_vcd_refuses() -> None:
    refused = f'<Error {NS} majorErrorCode="400" minorErrorCode="BAD_REQUEST" message="unknown property moref"/>'
    records = f'<QueryResultRecords {NS}><R moref="vm-2"/><AdminVMRecord moref="vm-1"/></QueryResultRecords>'
    vcd, wire, _unused = client((400, refused), (200, records))
    assert [record["moref"] for record in vcd.search("adminVM", "moref", "vm-1", what="w")] == ["vm-1"]
    assert "filter" not in wire.asked[1][1]


def test_values_with_a_meaning_in_filters_are_not_put_into_one() -> None:
    assert equals("name", "acme-prod.1") == "name==acme-prod.1"
    assert equals("name", "a;b") is None
    assert equals("name", "a*") is None
    assert equals("name", "two words") is None


def test_entities_are_the_same_by_their_id() -> None:
    assert same_entity(f"{URL}/api/vdc/1-2", f"{URL}/api/admin/vdc/1-2")
    assert same_entity("urn:vcloud:vdc:1-2", f"{URL}/api/vdc/1-2/")
    assert not same_entity(None, f"{URL}/api/vdc/1")


# --- what the VM's NICs should be ---------------------------------------------------------------------------------


def migration(networks: list[dict[str, Any]], nics: int = 2) -> Any:
    macs = [f"52:54:00:AA:00:0{index}" for index in range(nics)]
    return {
        "machine": {
            "nics": [{"mac": mac, "permanent_mac": mac} for mac in macs],
            "guest": {"drivers": ["e1000e"]},
        },
        "destination": {
            "networks": [
                {"network": "n", "ip_mode": "DHCP", "ip": None, "keep_mac": False, "connected": True, **network}
                for network in networks
            ]
        },
    }


def test_each_nic_gets_its_entry_and_those_without_arrive_disconnected() -> None:
    first, second = vc.wanted_nics(migration([{"ip_mode": "MANUAL", "ip": "10.0.0.1"}]), ())
    assert first == vx.Nic(0, "n", connected=True, mode="MANUAL", ip="10.0.0.1", adapter="E1000E")
    assert second == vx.Nic(1, adapter="E1000E")


def test_mac_is_kept_only_where_asked_and_vcd_s_own_stays_otherwise() -> None:
    current = (vx.Nic(0, mac="00:50:56:01:00:01"), vx.Nic(1, mac="00:50:56:01:00:02"))
    first, second = vc.wanted_nics(migration([{"keep_mac": True}, {}]), current)
    assert (first.mac, second.mac) == ("52:54:00:aa:00:00", "00:50:56:01:00:02")


def test_network_none_is_a_nic_without_a_network_and_each_nic_may_have_its_own_kind() -> None:
    wanted = [{"network": "none"}, {"adapter": "vmxnet3", "ip_mode": "POOL"}]
    first, second = vc.wanted_nics(migration(wanted), ())
    assert first == vx.Nic(0, adapter="E1000E")
    assert second == vx.Nic(1, "n", connected=True, mode="POOL", adapter="VMXNET3")


@pytest.mark.parametrize(
    ("guest", "name"),
    [
        ({"os_type": "windows", "computer_name": "SRV-1", "hostname": "srv-1-long-name"}, "SRV-1"),
        ({"os_type": "windows", "hostname": "a-very-long-host-name"}, "a-very-long-hos"),
        ({"os_type": "linux", "computer_name": "X", "hostname": "db_1.acme.example"}, "db-1"),
        ({"os_type": "linux", "hostname": None}, "erp"),
        ({"os_type": "linux", "hostname": "2024"}, "vm-2024"),
        ({}, "erp"),
    ],
)
def test_computer_name_is_the_guest_s_own_as_far_as_vcd_takes_it(guest: dict[str, Any], name: str) -> None:
    assert vc.computer_name({"guest": guest, "machine": {}, "name": "erp.acme.example"}) == name  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("destination", "how", "name"),
    [
        ({"vapp": None}, "vapp", "erp-db"),
        ({"vapp": "old {style}"}, "existing", "old {style}"),
        ({"vapp": "{name}-{id}", "import_as": "vapp"}, "vapp", "erp-db-0a1b2c3d"),
        ({"vapp": "app {template}/{serial}", "import_as": "shared"}, "shared", "app linux-SN 1"),
        ({"vapp": "{serial}", "import_as": "shared"}, "shared", "SN 1"),
        ({"vapp": None, "import_as": "standalone"}, "standalone", "erp-db"),
        ({"vapp": "x" * 128 + "{id}", "import_as": "vapp"}, "vapp", "x" * 128),
    ],
)
def test_vapp_is_named_by_its_pattern(destination: dict[str, Any], how: str, name: str) -> None:
    wanted: Any = {
        "id": "0a1b2c3d-0000-4000-8000-000000000000",
        "name": "erp-db",
        "template": {"name": "linux"},
        "machine": {"serial": "SN 1"},
        "destination": destination,
    }
    assert (vt.arrival(wanted), vt.vapp_name(wanted)) == (how, name)
    first, second = vt.vapp_names(wanted)
    assert second.endswith("-0a1b2c3d")
    assert len(second) <= 128
    assert first == name


def test_more_entries_than_nics_make_no_nics() -> None:
    assert len(vc.wanted_nics(migration([{}, {}, {}], nics=1), ())) == 1


def test_address_that_vcd_assigned_is_no_difference() -> None:
    wanted = vx.Nic(0, "n", connected=True, mode="POOL", mac="00:50:56:01:00:01", adapter="VMXNET3")
    current = vx.Nic(0, "n", connected=True, mode="POOL", ip="10.0.0.9", mac="00:50:56:01:00:01", adapter="VMXNET3")
    assert vc.comparable(wanted) == vc.comparable(current)


def test_vcenter_is_found_by_name_host_or_uuid() -> None:
    record = (
        '<VirtualCenterRecord name="vc-{0}" url="https://vc{0}.example.com:443/" uuid="u-{0}" href="{1}/api/v/{0}"/>'
    )
    body = f"<QueryResultRecords {NS}>" + record.format(1, URL) + record.format(2, URL) + "</QueryResultRecords>"
    for name in ("vc-2", "VC2.example.com", "u-2"):
        vcd, _unused, _unused = client((200, body))
        assert vt.find_vcenter(vcd, name) == vx.Reference("vc-2", f"{URL}/api/v/2")
    for name in (None, "vc-3"):
        vcd, _unused, _unused = client((200, body))
        with pytest.raises(DestinationError, match="'vc-1', 'vc-2'"):
            vt.find_vcenter(vcd, name)
