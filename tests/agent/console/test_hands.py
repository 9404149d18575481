# SPDX-License-Identifier: GPL-3.0-or-later
"""What commands do to the agent: settings typed at the machine, orders, the shell's password; and the doctor."""

from __future__ import annotations

import ctypes
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from agent_lab import Authority

from coldmig_agent import netapply
from coldmig_agent.config import Config, Endpoint, parse_config
from coldmig_agent.console import doctor, shell
from coldmig_agent.console.doctor import Doctor
from coldmig_agent.console.hands import AgentHands, Machine, corrected, network_words
from coldmig_agent.interfaces import InterfaceState
from coldmig_agent.lifecycle import Agent
from coldmig_agent.orders import BeginAgainError, CanceledHereError, DisksChosenError, Orders
from coldmig_agent.status import Phase, Status
from support.agent import iso_settings

AUTHORITY = Authority.create()


def config(**more: object) -> Config:
    return parse_config(json.dumps(iso_settings("https://site.example", AUTHORITY.pem, **more)).encode())


def agent_of(settings: Config) -> Agent:
    return Agent(settings, Status(), threading.Event())


def hands_of(agent: Agent | None, settings: Config | None = None) -> AgentHands:
    machine = Machine(agent, lambda: None, lambda: None, config=settings or (agent.config if agent else None))
    return AgentHands(machine, "tty1", lambda: None)


def typed(settings: Config, **values: str) -> tuple[Config, list[str]]:
    now = network_words(settings, ["eth0"], "eth0")
    return corrected(settings, now, {**now, **values})


def test_an_address_is_given_instead_of_dhcp() -> None:
    changed, problems = typed(config(), ip="192.0.2.10/24", gateway="192.0.2.1", dns="192.0.2.53, 192.0.2.54", vlan="7")
    assert problems == []
    (interface,) = changed.network.interfaces
    assert (interface.match.name, interface.dhcp, interface.addresses) == ("eth0", False, ("192.0.2.10/24",))
    assert (interface.gateways, interface.vlan) == (("192.0.2.1",), 7)
    assert changed.network.dns == ("192.0.2.53", "192.0.2.54")
    again = network_words(changed, ["eth0"], "eth0")
    assert (again["ip"], again["gateway"], again["vlan"]) == ("192.0.2.10/24", "192.0.2.1", "7")


def test_and_dhcp_again_and_no_vlan() -> None:
    static, _problems = typed(config(), ip="192.0.2.10/24", gateway="192.0.2.1", vlan="7")
    changed, problems = typed(static, ip="dhcp", gateway="", vlan="")
    assert problems == []
    (interface,) = changed.network.interfaces
    assert (interface.dhcp, interface.addresses, interface.gateways, interface.vlan) == (True, (), (), None)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"ip": "192.0.2.300/24"}, "ip"),
        ({"ip": "192.0.2.10"}, "ip"),
        ({"ip": "192.0.2.10/24", "gateway": "here"}, "gateway"),
        ({"vlan": "5000"}, "vlan"),
        ({"dns": "name"}, "dns"),
        ({"proxy": "http://proxy/path"}, "proxy"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_applied(
    values: Mapping[str, str], names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _changed, problems = typed(config(), **values)
    assert any(names in problem for problem in problems)
    applied: list[object] = []
    monkeypatch.setattr(netapply, "apply", applied.append)
    agent = agent_of(config())
    does = hands_of(agent)
    _names, now = does.network_values()
    reply = does.correct_network({**now, **values})
    assert reply.again
    assert "coldmig." not in reply.text
    assert applied == []
    assert agent.config == config()


def test_a_proxy_has_a_user_and_keeps_its_password() -> None:
    changed, problems = typed(config(), proxy="http://proxy.example:3128", proxy_user="ann", proxy_password="s3cret")
    assert problems == []
    assert changed.site.proxy == Endpoint("proxy.example", 3128, "ann", "s3cret")
    assert changed.network == config().network
    kept, _problems = typed(changed, ip="192.0.2.10/24")
    assert kept.site.proxy == changed.site.proxy
    other, _problems = typed(changed, proxy="http://other.example:3128")
    assert other.site.proxy == Endpoint("other.example", 3128, "ann", None)
    none, _problems = typed(changed, proxy="", proxy_user="")
    assert none.site.proxy is None


def test_corrections_are_applied_for_this_boot_and_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[Any] = []

    def apply(network: Any) -> tuple[str, ...]:
        applied.append(network)
        return ("eth9 is not there.",)

    monkeypatch.setattr(netapply, "apply", apply)
    agent = agent_of(config())
    does = hands_of(agent)
    _names, now = does.network_values()
    reply = does.correct_network({**now, "proxy": "http://192.0.2.9:3128"})
    assert (applied, reply.again) == ([], False)
    assert agent.site.config.proxy == Endpoint("192.0.2.9", 3128)
    assert agent.orders.take_retry()
    _names, now = does.network_values()
    reply = does.correct_network({**now, "interface": "eth9", "ip": "192.0.2.10/24"})
    assert len(applied) == 1
    assert reply.text == "The settings are in force. eth9 is not there."
    text = "\n".join(line for _number, line in agent.status.events_after(0))
    assert "the network settings were corrected for this boot (by somebody at tty1)" in text


def test_a_network_that_does_not_take_the_settings_leaves_the_form_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(_network: object) -> None:
        raise netapply.NetworkApplyError("systemctl start: failed")

    monkeypatch.setattr(netapply, "apply", apply)
    agent = agent_of(config())
    _names, now = hands_of(agent).network_values()
    reply = hands_of(agent).correct_network({**now, "ip": "192.0.2.10/24"})
    assert (reply.text, reply.again) == ("systemctl start: failed", True)
    assert agent.config == config()


def test_orders_are_taken_once() -> None:
    orders = Orders()
    orders.retry()
    assert (orders.take_retry(), orders.take_retry(), orders.pressing) == (True, False, False)
    orders.cancel()
    assert orders.pressing
    with pytest.raises(CanceledHereError):
        orders.check()
    orders.check()
    orders.leave_out(frozenset({"/dev/sdb"}))
    with pytest.raises(DisksChosenError):
        orders.check()
    orders.leave_out(frozenset({"/dev/sdb"}))
    orders.check()
    orders.begin_again()
    with pytest.raises(BeginAgainError):
        orders.check_again()
    orders.clear()
    orders.check_again()
    assert orders.left_out == {"/dev/sdb"}


def test_whoever_chooses_disks_holds_the_registration_alone() -> None:
    orders = Orders()
    orders.hold("tty1", True)
    orders.hold("ttyS0", True)
    orders.hold("tty1", False)
    assert orders.held
    orders.hold("ttyS0", False)
    assert not orders.held


def test_without_settings_little_is_possible() -> None:
    does = hands_of(None)
    for sentence in (does.test(), does.retry(False), does.cancel(), does.correct_network({}).text):
        assert "cannot be used" in sentence
    assert does.shell_wants() == "no"
    assert does.disks() is None
    does.hold(True)


def hashed(password: str) -> str:
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    found: bytes = crypt(password.encode(), b"$6$rounds=1000$salt$")
    return found.decode()


def test_the_shell_opens_for_the_right_password_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "WRONG_SECONDS", 0.0)
    settings = config(access={"root_password_hash": hashed("sesame")})
    agent = agent_of(settings)
    opened: list[str] = []
    does = AgentHands(Machine(agent, lambda: None, lambda: None, config=settings), "tty1", lambda: opened.append("x"))
    assert does.shell_wants() == "password"
    for wrong in ("", "Sesame", "sesame ", hashed("sesame"), "sesame\0", "x" * 5000):
        assert does.shell(wrong).again
    assert opened == []
    assert not does.shell("sesame").again
    assert opened == ["x"]
    assert "sesame" not in "\n".join(line for _number, line in agent.status.events_after(0))


def test_a_wrong_password_costs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "WRONG_SECONDS", 0.4)
    began = time.monotonic()
    assert not shell.right_password("wrong", hashed("sesame"))
    assert time.monotonic() - began >= 0.4
    assert not shell.right_password("anything", "*0")
    assert not shell.right_password("anything", "!")


def test_there_is_no_shell_without_a_hash_unless_the_settings_want_one() -> None:
    settings = config()
    does = hands_of(agent_of(settings))
    assert does.shell_wants() == "no"
    assert does.shell("").text == "This ISO allows no shell."
    assert hands_of(agent_of(config(console={"serial": None, "shell": True}))).shell_wants() == "nothing"


def test_a_shell_has_its_terminal_for_its_own() -> None:
    master, slave = pty.openpty()
    path = Path(os.ttyname(slave))
    word = "test -t 0 && ps -o tty= -p $$ && cat /proc/self/oom_score_adj && exit 7"
    assert shell.run(path, "vt100", ("/bin/sh", "-c", word)) == 7
    said = os.read(master, 4096).decode()
    assert str(path).removeprefix("/dev/") in said
    os.close(master)
    os.close(slave)


class NoCable:
    """What the doctor sees: no interface has a link."""

    def __init__(self) -> None:
        self.looked = 0

    def states(self) -> list[InterfaceState]:
        self.looked += 1
        return [InterfaceState("eth0", "52:54:00:00:00:01", False, ())]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(doctor, "AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "_LOOK_SECONDS", 0.02)


@pytest.mark.usefixtures("hurried")
def test_the_doctor_comes_by_itself_in_trouble_and_tells_news_only() -> None:
    agent = agent_of(config())
    probe = NoCable()
    agent.status.phase(Phase.NETWORK)
    with Doctor(agent, probe):  # type: ignore[arg-type]
        time.sleep(0.3)
        assert probe.looked == 0
        agent.status.problem("no link")
        wait_until(lambda: probe.looked >= 3)
    lines = [line for _number, line in agent.status.events_after(0)]
    assert lines.count("test of the way to the site: cable FAILED: no interface has a link (eth0)") == 1
    assert "what to try: Plug in the network cable, or connect the virtual network card" in lines
    assert agent.status.snapshot().checks[0].step == "cable"


@pytest.mark.usefixtures("hurried")
def test_the_doctor_comes_when_called_and_not_after_an_end() -> None:
    agent = agent_of(config())
    probe = NoCable()
    with Doctor(agent, probe, by_itself=False) as called:  # type: ignore[arg-type]
        agent.status.problem("no link")
        time.sleep(0.3)
        assert probe.looked == 0
        called.test()
        wait_until(lambda: probe.looked == 1)
    agent = agent_of(config())
    agent.status.phase(Phase.FAILED)
    agent.status.problem("the end")
    with Doctor(agent, probe):  # type: ignore[arg-type]
        wait_until(lambda: probe.looked >= 10)
    assert agent.status.snapshot().checks == ()


@pytest.mark.usefixtures("hurried")
def test_links_and_addresses_are_shown_as_they_are_now() -> None:
    agent = agent_of(config())
    agent.status.network(["eth0 52:54:00:00:00:01 link up 192.0.2.10"])
    agent.status.phase(Phase.COPYING)
    with Doctor(agent, NoCable()):  # type: ignore[arg-type]
        wait_until(lambda: "NO LINK" in agent.status.snapshot().network[0])
    lines = [line for _number, line in agent.status.events_after(0)]
    assert lines.count("network: eth0 52:54:00:00:00:01 NO LINK") == 1


def test_what_the_console_costs_is_loaded_only_for_a_full_screen() -> None:
    script = "import sys, coldmig_agent.cli; sys.exit('urwid' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == 0
