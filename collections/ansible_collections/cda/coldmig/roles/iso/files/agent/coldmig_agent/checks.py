# SPDX-License-Identifier: GPL-3.0-or-later
"""Live tests of the way to the site, in the order in which they build on each other.

The first one that fails is what a person has to see to; those behind it are not tried. What is seen comes from a
:class:`Probe`, what it means is decided here.
"""

from __future__ import annotations

import email.utils
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import Enum

from coldmig_agent.config import Endpoint, SiteConfig
from coldmig_agent.interfaces import InterfaceState
from coldmig_agent.probing import Probe
from coldmig_agent.proxy import ProxyError, open_way
from coldmig_agent.site import HOST_MISMATCH, ProblemError, problem_from, tls_context
from coldmig_agent.text import clean, human_duration

#: The steps in their order, as they are called on the console.
STEPS = ("cable", "address", "route", "DNS", "proxy", "port", "TLS", "clock", "credential")
TIMEOUT_SECONDS = 5.0
#: A clock that is further off than this is worth a word.
CLOCK_SECONDS = 300.0
_MAX_ANSWER = 1 << 20

#: What a refused credential means and what helps.
_CREDENTIALS = {
    "credential-expired": "the credential of this ISO has expired",
    "credential-revoked": "the credential of this ISO was revoked",
    "credential-unknown": "the site does not know the credential of this ISO",
    "template-deleted": "the template of this ISO was deleted",
}
_BY_HAND = "Press n to correct the network for this boot"


class Verdict(Enum):
    """How a step went."""

    OK = "ok"
    #: It works, and a person should know something all the same.
    NOTE = "note"
    FAILED = "FAILED"
    #: Not needed here.
    SKIPPED = "-"


@dataclass(frozen=True, slots=True)
class Result:
    """A step, how it went, what was seen, and what to try if that is a trouble."""

    step: str
    verdict: Verdict
    text: str
    tries: tuple[str, ...] = ()


class _FailedError(Exception):
    def __init__(self, text: str, *tries: str) -> None:
        super().__init__(text)
        self.text = text
        self.tries = tries


def failed(results: Sequence[Result]) -> Result | None:
    """The step that a person has to see to."""
    return next((result for result in results if result.verdict is Verdict.FAILED), None)


def examine(site: SiteConfig, credential: str, probe: Probe, *, static: bool = False) -> Iterator[Result]:
    """Try the steps one after the other, up to the first that fails; each is yielded as soon as it is known.

    ``static``: the settings give addresses, so that none is expected from DHCP.
    """
    chain = _Chain(site, credential, probe, static)
    try:
        for step in STEPS:
            try:
                verdict, text, tries = chain.step(step)
            except _FailedError as error:
                yield Result(step, Verdict.FAILED, clean(error.text, 300), error.tries)
                return
            yield Result(step, verdict, clean(text, 300), tries)
    finally:
        chain.close()


def judge_cable(states: Sequence[InterfaceState]) -> str:
    """The interfaces with a link. Raises when there is none."""
    linked = [state.name for state in states if state.carrier]
    if linked:
        return f"{', '.join(linked)} has a link" if len(linked) == 1 else f"{', '.join(linked)} have a link"
    if not states:
        raise _FailedError(
            "no wired network interface was found",
            "Is a network card in this machine, and switched on in its firmware?",
            "Its driver may be missing on this ISO: write down maker and model of the card for the provider",
        )
    raise _FailedError(
        f"no interface has a link ({', '.join(state.name for state in states)})",
        "Plug in the network cable, or connect the virtual network card",
        "Try another port of this machine, another cable, another port of the switch",
        "Is the switch's port on, and are both sides set to the same speed?",
    )


def judge_address(states: Sequence[InterfaceState], static: bool) -> str:
    """The addresses in use. Raises when there is none."""
    found = [f"{state.name} {address}" for state in states if state.carrier for address in state.addresses]
    if found:
        return ", ".join(found[:4])
    if static:
        raise _FailedError(
            "the addresses of this ISO's settings are on no interface with a link",
            "The settings may name another interface (MAC address or name) than the one with the cable",
            _BY_HAND,
        )
    raise _FailedError(
        "there is a link, but no DHCP server gives an address",
        "Is there a DHCP server in this network, and is this port in the right VLAN?",
        f"{_BY_HAND}: an address of its own, or the VLAN",
    )


class _Chain:
    """What one step found and the next one needs."""

    def __init__(self, site: SiteConfig, credential: str, probe: Probe, static: bool) -> None:
        self._site = site
        self._credential = credential
        self._probe = probe
        self._static = static
        self._states: Sequence[InterfaceState] = ()
        self._addresses: list[str] = []
        self._socket: socket.socket | None = None
        self._answer: tuple[int, str, bytes] | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def step(self, step: str) -> tuple[Verdict, str, tuple[str, ...]]:
        return {
            "cable": self._cable,
            "address": lambda: _ok(judge_address(self._states, self._static)),
            "route": self._route,
            "DNS": self._dns,
            "proxy": self._proxy,
            "port": self._port,
            "TLS": self._tls,
            "clock": self._clock,
            "credential": self._credential_step,
        }[step]()

    def _cable(self) -> tuple[Verdict, str, tuple[str, ...]]:
        self._states = self._probe.states()
        return _ok(judge_cable(self._states))

    @property
    def _first(self) -> Endpoint:
        return self._site.proxy or self._site.endpoint

    def _route(self) -> tuple[Verdict, str, tuple[str, ...]]:
        """The way to the first machine that is spoken to: proxy or site, or the name server that knows them."""
        target = self._first.host
        if not _is_address(target):
            servers = self._probe.name_servers()
            if not servers:
                return _ok("not known before there is a name server")
            target = servers[0]
        try:
            source = self._probe.source_address(target)
        except OSError as error:
            raise _FailedError(
                f"there is no route to {target} ({error.strerror or error})",
                f"A gateway is missing or wrong. {_BY_HAND}",
            ) from None
        next_hop = self._probe.next_hop(target)
        if next_hop is not None and self._probe.answers(next_hop) is False:
            what = f"the gateway {next_hop}" if next_hop != target else f"{target}, which is in this network,"
            raise _FailedError(
                f"{what} does not answer",
                "Is this port in the right VLAN, and is the address of the gateway right?",
                _BY_HAND,
            )
        return _ok(f"to {target} from {source}" + (f" through {next_hop}" if next_hop not in {None, target} else ""))

    def _dns(self) -> tuple[Verdict, str, tuple[str, ...]]:
        host = self._first.host
        if _is_address(host):
            self._addresses = [host]
            return Verdict.SKIPPED, "not needed: an address is given", ()
        servers = self._probe.name_servers()
        whose = ", ".join(servers) or "none"
        try:
            self._addresses = self._probe.resolve(host)
        except socket.gaierror as error:
            if not servers:
                raise _FailedError(
                    f"no name server is known, so {host} cannot be found",
                    "The DHCP server names none, and this ISO's settings neither",
                    f"{_BY_HAND}: give a name server",
                ) from None
            if error.errno == socket.EAI_AGAIN:
                raise _FailedError(
                    f"the name servers ({whose}) do not answer",
                    "Are their addresses right, and may this network reach them?",
                    _BY_HAND,
                ) from None
            raise _FailedError(
                f"the name servers ({whose}) do not know {host}",
                "Is it a name of an internal zone? Then it takes the name servers that know it",
                _BY_HAND,
            ) from None
        return _ok(f"{host} is {', '.join(self._addresses[:2])}")

    def _connect(self, endpoint: Endpoint, who: str) -> socket.socket:
        try:
            return self._probe.connect(self._addresses, endpoint.port, TIMEOUT_SECONDS)
        except ConnectionRefusedError:
            raise _FailedError(
                f"{who} refuses connections on port {endpoint.port}",
                "Is the service running there, and is the port right?",
                "A firewall on the way may refuse for it",
            ) from None
        except TimeoutError:
            raise _FailedError(
                f"{who} does not answer on port {endpoint.port}",
                f"A firewall on the way may drop it: TCP port {endpoint.port} must be open from this machine",
                "Must a proxy be used here? " + _BY_HAND,
            ) from None
        except OSError as error:
            raise _FailedError(
                f"{who} cannot be reached: {error.strerror or error}",
                f"Is there a route to {', '.join(self._addresses[:2])}? {_BY_HAND}",
            ) from None

    def _proxy(self) -> tuple[Verdict, str, tuple[str, ...]]:
        proxy = self._site.proxy
        if proxy is None:
            return Verdict.SKIPPED, "none is set", ()
        name = f"the proxy {proxy.host}"
        self._socket = self._connect(proxy, name)
        try:
            self._socket.settimeout(TIMEOUT_SECONDS)
            open_way(self._socket, proxy, self._site.endpoint)
        except ProxyError as error:
            raise _FailedError(str(error), f"{_BY_HAND}: address, user and password of the proxy") from None
        except OSError as error:
            raise _FailedError(
                f"{name} ends the connection ({error.strerror or error})", "Is that a proxy, and is the port right?"
            ) from None
        return _ok(f"{proxy.host}:{proxy.port} lets this machine through")

    def _port(self) -> tuple[Verdict, str, tuple[str, ...]]:
        site = self._site.endpoint
        if self._socket is not None:
            return _ok(f"{site.host}:{site.port}, through the proxy")
        self._socket = self._connect(site, f"the site {site.host}")
        return _ok(f"{site.host}:{site.port} takes connections")

    def _tls(self) -> tuple[Verdict, str, tuple[str, ...]]:
        if self._socket is None:
            raise AssertionError("the steps before this one opened no connection")
        try:
            self._socket.settimeout(TIMEOUT_SECONDS)
            self._socket = tls_context(self._site.ca_pem).wrap_socket(
                self._socket, server_hostname=self._site.endpoint.host
            )
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in HOST_MISMATCH:
                raise _FailedError(
                    f"the certificate is not for {self._site.endpoint.host}",
                    "The site must be addressed as its certificate names it: make the ISO with the right address",
                ) from None
            raise _FailedError(
                "who answers there does not have the certificate that this ISO was made for",
                "Does a firewall or proxy look into TLS here? The site must be left out of that",
                "Was the site set up anew? Then make a new ISO",
            ) from None
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "closed"
            raise _FailedError(
                f"TLS does not come about ({clean(str(reason), 80)})",
                f"Is port {self._site.endpoint.port} the site's port?",
                "A firewall on the way may cut connections that it does not know",
            ) from None
        return _ok("the site's certificate is the one of this ISO")

    def _request(self) -> tuple[int, str, bytes]:
        """Status, Date header and body of the answer to a question that needs the ISO's credential."""
        if self._answer is None:
            connection = http.client.HTTPConnection(self._site.endpoint.host, self._site.endpoint.port)
            connection.sock = self._socket
            try:
                with closing(connection):
                    headers = {"Authorization": f"Bearer {self._credential}"}
                    connection.request("GET", "/api/v1/site", headers=headers)
                    answer = connection.getresponse()
                    self._answer = (answer.status, answer.getheader("Date") or "", answer.read(_MAX_ANSWER))
            except (OSError, http.client.HTTPException, ValueError):
                raise _FailedError(
                    "the site ends the connection without an answer",
                    "Is the site overloaded or down? Ask the provider",
                ) from None
        return self._answer

    def _clock(self) -> tuple[Verdict, str, tuple[str, ...]]:
        try:
            theirs = email.utils.parsedate_to_datetime(self._request()[1]).timestamp()
        except (ValueError, TypeError, OverflowError):
            return Verdict.SKIPPED, "the site does not say what time it is", ()
        off = time.time() - theirs
        if abs(off) < CLOCK_SECONDS:
            return _ok("right")
        text = f"this machine's clock is {human_duration(abs(off))} {'ahead of' if off > 0 else 'behind'} the site's"
        return Verdict.NOTE, text, ("This hinders nothing here; set it in the firmware if logs shall have right times",)

    def _credential_step(self) -> tuple[Verdict, str, tuple[str, ...]]:
        status, _date, body = self._request()
        if status == 200:
            return _ok("the site knows the credential of this ISO")
        error = problem_from(status, body)
        if isinstance(error, ProblemError):
            text = _CREDENTIALS.get(error.slug)
            if text or status in {401, 403}:
                raise _FailedError(
                    text or f"the site refuses the credential of this ISO: {error}", "Make a new ISO for the template"
                )
            raise _FailedError(f"the site is in trouble itself: {error}", "Tell the provider; this machine tries again")
        raise _FailedError(str(error), "Is the address on this ISO the one of a cold migration site?")


def _ok(text: str) -> tuple[Verdict, str, tuple[str, ...]]:
    return Verdict.OK, text, ()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
