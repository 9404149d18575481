# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests of the way to the site, against real sockets: each step fails for its own reasons, in its turn."""

from __future__ import annotations

import email.utils
import errno
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from agent_lab import Authority, write_tree

from coldmig_agent import checks, probing
from coldmig_agent.checks import STEPS, Result, Verdict, examine, failed
from coldmig_agent.config import Endpoint, SiteConfig
from coldmig_agent.interfaces import InterfaceState
from coldmig_agent.probing import LiveProbe, parse_neighbours, parse_routes
from support.gateway import Gateway
from support.processes import free_port

AUTHORITY = Authority.create()
UP = InterfaceState("eth0", "52:54:00:00:00:01", True, ("192.0.2.10",))
CREDENTIAL = "cm1_iso_" + "x" * 43


class Lab(LiveProbe):
    """This machine, but for what a test says of its interfaces and name servers."""

    def __init__(
        self,
        states: Sequence[InterfaceState] = (UP,),
        *,
        servers: Sequence[str] = (),
        names: dict[str, list[str] | int] | None = None,
        route: OSError | None = None,
        hop: str | None = None,
        alive: bool | None = None,
    ) -> None:
        super().__init__()
        self._states = states
        self._servers = servers
        self._names = names or {}
        self._route = route
        self._hop = hop
        self._alive = alive

    def states(self) -> Sequence[InterfaceState]:
        return self._states

    def name_servers(self) -> Sequence[str]:
        return self._servers

    def source_address(self, target: str) -> str:
        if self._route is not None:
            raise self._route
        return super().source_address("127.0.0.1")

    def next_hop(self, target: str) -> str | None:
        return self._hop

    def answers(self, neighbour: str) -> bool | None:
        return self._alive

    def resolve(self, host: str) -> list[str]:
        found = self._names.get(host, socket.EAI_NONAME)
        if isinstance(found, int):
            raise socket.gaierror(found, "no")
        return found


class Listener:
    """A port where each connection is handled by a function."""

    def __init__(self, handle: Callable[[socket.socket], None]) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._handle = handle
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _address = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                try:
                    self._handle(connection)
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listen() -> Iterator[Callable[[Callable[[socket.socket], None]], Listener]]:
    made: list[Listener] = []

    def start(handle: Callable[[socket.socket], None]) -> Listener:
        made.append(Listener(handle))
        return made[-1]

    yield start
    for one in made:
        one.close()


def answering(
    directory: Path,
    status: str = "200 OK",
    body: bytes = b"{}",
    *,
    name: str = "127.0.0.1",
    authority: Authority = AUTHORITY,
    clock: float = 0.0,
) -> Callable[[socket.socket], None]:
    """A site that gives one answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server(directory, name))

    def handle(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            request = b""
            while b"\r\n\r\n" not in request:
                request += secure.recv(4096)
            assert request.startswith(b"GET /api/v1/site ")
            assert CREDENTIAL.encode() in request
            date = email.utils.formatdate(time.time() + clock, usegmt=True)
            head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
            secure.sendall(head.encode() + body)

    return handle


def site(port: int, host: str = "127.0.0.1", proxy: Endpoint | None = None) -> SiteConfig:
    return SiteConfig(f"https://{host}:{port}", Endpoint(host, port), AUTHORITY.pem, proxy)


def run(config: SiteConfig, lab: Lab | None = None, *, static: bool = False) -> list[Result]:
    return list(examine(config, CREDENTIAL, lab or Lab(), static=static))


def wrong(config: SiteConfig, lab: Lab | None = None, *, static: bool = False) -> Result:
    """The step that fails, behind which nothing was tried."""
    results = run(config, lab, static=static)
    found = failed(results)
    assert found is not None, results
    assert found is results[-1]
    assert [one.step for one in results] == list(STEPS[: len(results)])
    assert found.tries
    return found


def test_a_way_without_trouble_is_tested_to_its_end(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    server = listen(answering(tmp_path))
    results = run(site(server.port))
    assert [one.step for one in results] == list(STEPS)
    verdicts = {one.step: one.verdict for one in results}
    assert verdicts.pop("DNS") is verdicts.pop("proxy") is Verdict.SKIPPED
    assert set(verdicts.values()) == {Verdict.OK}


def test_a_real_gateway_knows_its_credential_and_no_other(gateway: Gateway) -> None:
    settings = gateway.iso("checks")
    config = SiteConfig(gateway.url, Endpoint("127.0.0.1", gateway.port), gateway.ca_pem, None)
    results = list(examine(config, settings["credential"], Lab()))
    assert failed(results) is None, results
    assert results[-1].text == "the site knows the credential of this ISO"
    refused = failed(list(examine(config, CREDENTIAL, Lab())))
    assert refused is not None
    assert refused.step == "credential"
    assert refused.tries == ("Make a new ISO for the template",)
    assert gateway.migrations("checks") == []


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ((), "no wired network interface"),
        ((InterfaceState("eth0", "", False, ()), InterfaceState("eth1", "", False, ())), "has a link (eth0, eth1)"),
    ],
)
def test_without_a_link_it_is_the_cable(states: Sequence[InterfaceState], words: str) -> None:
    found = wrong(site(1), Lab(states))
    assert found.step == "cable"
    assert words in found.text


def test_without_an_address_it_is_dhcp_or_the_settings() -> None:
    lab = Lab((InterfaceState("eth0", "", True, ()), InterfaceState("eth1", "", False, ("192.0.2.1",))))
    assert "no DHCP server" in wrong(site(1), lab).text
    assert "no interface with a link" in wrong(site(1), lab, static=True).text


def test_without_a_route_it_is_the_gateway() -> None:
    lab = Lab(route=OSError(errno.ENETUNREACH, "Network is unreachable"))
    found = wrong(site(1, "198.51.100.1"), lab)
    assert (found.step, "no route to 198.51.100.1" in found.text) == ("route", True)


def test_a_gateway_that_does_not_answer_is_named() -> None:
    found = wrong(site(1, "198.51.100.1"), Lab(hop="192.0.2.1", alive=False))
    assert (found.step, found.text) == ("route", "the gateway 192.0.2.1 does not answer")
    near = wrong(site(1, "192.0.2.9"), Lab(hop="192.0.2.9", alive=False))
    assert "192.0.2.9, which is in this network, does not answer" in near.text
    assert wrong(site(free_port()), Lab(hop="192.0.2.1", alive=None)).step == "port"


@pytest.mark.parametrize(
    ("servers", "code", "words"),
    [
        ((), socket.EAI_AGAIN, "no name server is known"),
        (("192.0.2.53",), socket.EAI_AGAIN, "(192.0.2.53) do not answer"),
        (("192.0.2.53",), socket.EAI_NONAME, "do not know site.example"),
    ],
)
def test_a_name_that_is_not_found_is_dns(servers: Sequence[str], code: int, words: str) -> None:
    found = wrong(site(1, "site.example"), Lab(servers=servers, names={"site.example": code}))
    assert found.step == "DNS"
    assert words in found.text


def test_a_name_leads_to_its_address(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    server = listen(answering(tmp_path, name="site.example"))
    lab = Lab(servers=("192.0.2.53",), names={"site.example": ["127.0.0.1"]})
    assert failed(run(site(server.port, "site.example"), lab)) is None


def test_a_closed_port_is_told_from_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wrong(site(free_port()))
    assert (found.step, "refuses connections" in found.text) == ("port", True)
    monkeypatch.setattr(checks, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        assert "does not answer on port" in wrong(site(port)).text
        for filler in fillers:
            filler.close()


def test_another_authority_another_name_and_no_tls_are_told_apart(
    tmp_path: Path, listen: Callable[..., Listener]
) -> None:
    foreign = wrong(site(listen(answering(tmp_path, authority=Authority.create())).port))
    assert foreign.step == "TLS"
    assert "does not have the certificate that this ISO was made for" in foreign.text
    other = wrong(site(listen(answering(tmp_path, name="other.example")).port))
    assert "the certificate is not for 127.0.0.1" in other.text
    plain = wrong(site(listen(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n")).port))
    assert (plain.step, "TLS does not come about" in plain.text) == ("TLS", True)
    cut = wrong(site(listen(lambda connection: connection.close()).port))
    assert cut.step == "TLS"


def test_a_clock_that_is_off_is_noted_and_hinders_nothing(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    results = run(site(listen(answering(tmp_path, clock=2 * 86400)).port))
    clock = next(one for one in results if one.step == "clock")
    assert clock.verdict is Verdict.NOTE
    assert "behind the site's" in clock.text
    assert failed(results) is None


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("401 Unauthorized", {"type": "urn:coldmig:problem:credential-expired", "title": "x"}, "has expired"),
        ("401 Unauthorized", {"type": "urn:coldmig:problem:credential-revoked", "title": "x"}, "was revoked"),
        ("401 Unauthorized", {"type": "urn:x:other", "title": "No \x1b[2Jtoken"}, "refuses the credential"),
        ("503 Busy", {"type": "urn:x:busy", "title": "The database is away"}, "in trouble itself: The database"),
        ("404 Not Found", "<html>", "not as a site does"),
    ],
)
def test_what_the_site_refuses_is_said(
    tmp_path: Path, listen: Callable[..., Listener], status: str, body: object, words: str
) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    found = wrong(site(listen(answering(tmp_path, status, content)).port))
    assert found.step == "credential"
    assert words in found.text
    assert "\x1b" not in found.text


def test_a_site_that_says_nothing_is_no_trouble_of_the_clock(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(AUTHORITY.server(tmp_path, "127.0.0.1"))
    server = listen(lambda connection: context.wrap_socket(connection, server_side=True).close())
    assert "without an answer" in wrong(site(server.port)).text


def proxied(answer: bytes, onward: int | None = None) -> Callable[[socket.socket], None]:
    """A proxy that gives this answer to CONNECT, and then leads to a port of this machine."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def handle(connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        connection.sendall(answer)
        if onward is not None:
            with socket.create_connection(("127.0.0.1", onward)) as there:
                back = threading.Thread(target=copy, args=(there, connection))
                back.start()
                copy(connection, there)
                back.join()

    return handle


def test_a_proxy_that_lets_through_leads_to_the_site(tmp_path: Path, listen: Callable[..., Listener]) -> None:
    server = listen(answering(tmp_path))
    proxy = listen(proxied(b"HTTP/1.1 200 OK\r\n\r\n", server.port))
    results = run(site(server.port, proxy=Endpoint("127.0.0.1", proxy.port, "ann", "s3cret")))
    assert failed(results) is None, results
    by_step = {one.step: one.text for one in results}
    assert by_step["port"].endswith("through the proxy")
    assert "s3cret" not in str(results)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", "wants a user name and a password"),
        (b"HTTP/1.1 403 \x1b[2J\r\n\r\n", "forbids"),
        (b"HTTP/1.1 503 Away\r\n\r\n", "cannot reach"),
        (b"SSH-2.0\r\n\r\n", "does not answer like an HTTP proxy"),
        (b"", "closes the connection"),
    ],
)
def test_a_proxy_that_refuses_is_the_step_that_fails(
    listen: Callable[..., Listener], answer: bytes, words: str
) -> None:
    proxy = listen(proxied(answer))
    found = wrong(site(1, proxy=Endpoint("127.0.0.1", proxy.port)))
    assert found.step == "proxy"
    assert words in found.text
    assert "\x1b" not in found.text
    away = wrong(site(1, proxy=Endpoint("127.0.0.1", free_port())))
    assert (away.step, "the proxy 127.0.0.1 refuses connections" in away.text) == ("proxy", True)


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t00000000\t01020AC0\t0003\t0\t0\t50\t00000000\t0\t0\t0
eth1\tbroken
"""
NEIGHBOURS = """IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         52:54:00:00:00:02     *        eth0
192.0.2.7        0x1         0x0         00:00:00:00:00:00     *        eth0
broken
"""


def test_the_next_machine_on_the_way_is_read_from_the_kernels_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_ARP_SECONDS", 0.1)
    assert len(parse_routes(ROUTES)) == 3
    assert parse_neighbours(NEIGHBOURS) == {"192.0.2.1": True, "192.0.2.7": False}
    write_tree(tmp_path, {"net/route": ROUTES, "net/arp": NEIGHBOURS})
    probe = LiveProbe(proc=tmp_path)
    assert probe.next_hop("192.0.2.9") == "192.0.2.9"
    assert probe.next_hop("198.51.100.1") == "192.10.2.1"
    assert probe.next_hop("127.0.0.1") is None
    assert probe.next_hop("2001:db8::1") is None
    assert probe.answers("192.0.2.1") is True
    assert probe.answers("192.0.2.7") is False
    assert probe.answers("192.0.2.8") is None
    assert LiveProbe(proc=tmp_path / "none").next_hop("192.0.2.9") is None


def test_addresses_are_tried_one_after_the_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        LiveProbe().connect(["127.0.0.2", "127.0.0.1"], port, 5).close()
        with pytest.raises(ConnectionRefusedError):
            LiveProbe().connect(["127.0.0.2"], port, 5)
    with pytest.raises(OSError, match="no address"):
        LiveProbe().connect([], 1, 5)
