# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands of a console do to the agent and the machine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from coldmig_agent import netapply, network, settings
from coldmig_agent.config import Endpoint
from coldmig_agent.console import shell
from coldmig_agent.console.forms import Reply
from coldmig_agent.interfaces import all_states, ethernet_names
from coldmig_agent.machine import Disk, LeftOut
from coldmig_agent.netsettings import Match
from coldmig_agent.proxy import authority

if TYPE_CHECKING:
    from coldmig_agent.config import Config
    from coldmig_agent.lifecycle import Agent

LOG = logging.getLogger(__name__)

_NETWORK = ("interface", "ip", "gateway", "dns", "vlan")


@dataclass(slots=True)
class Machine:
    """What all consoles act upon. Without an agent (settings that cannot be used) little is possible."""

    agent: Agent | None
    reboot: Callable[[], None]
    poweroff: Callable[[], None]
    test: Callable[[], None] = field(default=lambda: None)
    config: Config | None = None


def match_words(match: Match) -> str:
    """An interface as the form and the kernel arguments name it."""
    if match.bond is not None:
        return f"bond:{match.bond}"
    if match.driver is not None:
        return f"driver:{match.driver}"
    return match.mac or match.name or "carrier"


def network_words(config: Config, names: Sequence[str], linked: str) -> dict[str, str]:
    """The present settings in the words of the form."""
    first = config.network.interfaces[0] if config.network.interfaces else None
    proxy = config.site.proxy
    return {
        "interface": match_words(first.match) if first else linked or (names[0] if names else "carrier"),
        "ip": ",".join(first.addresses) if first and first.addresses else "dhcp",
        "gateway": ",".join(first.gateways) if first else "",
        "dns": ",".join(config.network.dns),
        "vlan": str(first.vlan) if first and first.vlan is not None else "",
        "proxy": f"http://{authority(proxy)}" if proxy else "",
        "proxy_user": (proxy.user or "") if proxy else "",
        "proxy_password": "",
    }


def corrected(config: Config, now: Mapping[str, str], values: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings with what was typed, and sentences on what is wrong with it."""
    typed = {key: values.get(key, "").replace(" ", "") for key in now}
    words = {key: typed[key] for key in _NETWORK}
    if words["ip"].lower() in {"", "dhcp"}:
        words["ip"] = "dhcp"
        if not words["gateway"]:
            del words["gateway"]
    if all(typed[key] == now[key] for key in _NETWORK):
        words = {}
    found = settings.override(config, {**words, "proxy": typed["proxy"]}, "the console")
    problems = [text.replace(settings.PREFIX, "") for text in found.problems]
    proxy = found.config.site.proxy
    if proxy is not None:
        old = config.site.proxy
        same = old is not None and (old.host, old.port, old.user or "") == (proxy.host, proxy.port, typed["proxy_user"])
        password = values.get("proxy_password") or (old.password if same and old else None)
        proxy = Endpoint(proxy.host, proxy.port, typed["proxy_user"] or None, password)
    return replace(found.config, site=replace(found.config.site, proxy=proxy)), problems


class AgentHands:
    """The hands of one terminal. ``run_shell`` runs a shell there and returns when it has ended."""

    def __init__(self, machine: Machine, name: str, run_shell: Callable[[], None]) -> None:
        self._machine = machine
        self._name = name
        self._run_shell = run_shell

    def _say(self, text: str) -> str:
        if self._machine.agent is not None:
            self._machine.agent.status.event(f"{text} (by somebody at {self._name})")
        return f"{text[0].upper()}{text[1:]}."

    @property
    def _none(self) -> str:
        return "That is not possible: the settings of this ISO cannot be used."

    def test(self) -> str:
        if self._machine.agent is None:
            return self._none
        self._machine.test()
        return "The way to the site is being tested."

    def retry(self, ended: bool) -> str:
        if self._machine.agent is None:
            return self._none
        if ended:
            self._machine.agent.orders.begin_again()
            return self._say("beginning a new migration")
        self._machine.agent.orders.retry()
        return "Trying again now."

    def _linked(self) -> tuple[list[str], str]:
        agent = self._machine.agent
        if agent is None:
            return [], ""
        states = all_states(agent.roots.sys, agent.roots.proc)
        names = ethernet_names(agent.roots.sys)
        return names, next((state.name for state in states if state.carrier and state.name in names), "")

    def network_values(self) -> tuple[tuple[str, ...], Mapping[str, str]]:
        agent = self._machine.agent
        if agent is None:
            return (), {}
        names, linked = self._linked()
        return tuple(names), network_words(agent.config, names, linked)

    def correct_network(self, values: Mapping[str, str]) -> Reply:
        agent = self._machine.agent
        if agent is None:
            return Reply(self._none)
        _names, now = self.network_values()
        config, problems = corrected(agent.config, now, values)
        if problems:
            return Reply(" ".join(problems), again=True)
        if config.network != agent.config.network:
            try:
                problems = list(netapply.apply(config.network))
            except netapply.NetworkApplyError as error:
                return Reply(str(error), again=True)
            self._say("the network settings were corrected for this boot")
        if config.site.proxy != agent.config.site.proxy:
            agent.site.use_proxy(config.site.proxy)
            self._say("the proxy was corrected for this boot")
        agent.config = config
        network.write_resolv_conf()
        agent.orders.retry()
        self._machine.test()
        return Reply(" ".join(["The settings are in force.", *problems]))

    def disks(self) -> tuple[Sequence[Disk], Sequence[LeftOut], frozenset[str]] | None:
        agent = self._machine.agent
        if agent is None or agent.found is None:
            return None
        machine = agent.found.machine
        return machine.disks, machine.left_out, agent.orders.left_out

    def hold(self, wanted: bool) -> None:
        if self._machine.agent is not None:
            self._machine.agent.orders.hold(self, wanted)

    def leave_out(self, paths: frozenset[str]) -> str:
        agent = self._machine.agent
        if agent is None:
            return self._none
        if paths == agent.orders.left_out:
            return "The choice is as it was."
        agent.orders.leave_out(paths)
        return self._say(f"left out: {', '.join(sorted(paths))}" if paths else "all disks are to be copied")

    def cancel(self) -> str:
        if self._machine.agent is None:
            return self._none
        self._machine.agent.orders.cancel()
        return self._say("the migration is being canceled")

    def shell_wants(self) -> str:
        config = self._machine.config
        if config is None:
            return "no"
        if config.access.root_password_hash:
            return "password"
        return "nothing" if config.shell else "no"

    def shell(self, password: str) -> Reply:
        config = self._machine.config
        hashed = config.access.root_password_hash if config else None
        if hashed and not shell.right_password(password, hashed):
            self._say("a wrong password was given for the shell")
            return Reply("That is not the root password of this ISO.", again=True)
        if not hashed and not (config and config.shell):
            return Reply("This ISO allows no shell.")
        self._say("a shell was started")
        try:
            self._run_shell()
        except OSError as error:
            return Reply(f"The shell cannot be started: {error.strerror or error}.")
        self._say("the shell has ended")
        return Reply("The shell has ended.")

    def reboot(self) -> str:
        text = self._say("rebooting")
        self._machine.reboot()
        return text

    def poweroff(self) -> str:
        text = self._say("powering off")
        self._machine.poweroff()
        return text
