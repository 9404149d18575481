# SPDX-License-Identifier: GPL-3.0-or-later
"""Command line of the agent."""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from coldmig_agent import __version__, clock, ending, livesetup, logs, netconfig, settings
from coldmig_agent.config import Config, ConfigError
from coldmig_agent.console.doctor import Doctor
from coldmig_agent.console.hands import Machine
from coldmig_agent.console.seat import Seats, wanted_mode
from coldmig_agent.ending import KEYS, LEFT_OPEN, WORDS, Act
from coldmig_agent.interfaces import PROC, read_text
from coldmig_agent.keys import Keys
from coldmig_agent.lifecycle import Agent, Stopped
from coldmig_agent.orders import BeginAgainError
from coldmig_agent.site import tls_context
from coldmig_agent.status import Phase, Status

LOG = logging.getLogger("coldmig_agent")

DEFAULT_CONFIG = Path("/run/coldmig/config.json")
DEFAULT_CONSOLES = (Path("/dev/tty1"), Path("/dev/ttyS0"))
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coldmig-agent", description="Cold migration: the agent on the live ISO.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="the ISO's settings (default: %(default)s)")
    parser.add_argument(
        "--console",
        type=Path,
        action="append",
        metavar="PATH",
        help="terminal to show the state on; virtual consoles get a screen, others lines. May be repeated",
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the migration instead of keeping its last screen"
    )
    parser.add_argument(
        "--source",
        type=Path,
        action="append",
        default=[],
        metavar="IMAGE",
        help="for the laboratory: copy this image file instead of the machine's disks. May be repeated",
    )
    commands = parser.add_subparsers(dest="command")
    network = commands.add_parser(
        "network", help="prepare the live system: systemd-networkd files and, with --root, all"
    )
    network.add_argument("--config", type=Path, default=DEFAULT_CONFIG)
    network.add_argument("--output", type=Path, required=True, metavar="DIR", help="where networkd's files go")
    network.add_argument(
        "--root", type=Path, metavar="DIR", help="apply logins, keyboard, time zone and banner below DIR"
    )
    return parser


def _bound_memory() -> None:
    """glibc: few arenas, and what is freed goes back to the kernel; the live system may have a few hundred MiB in all.

    Not at once: pages that are given back with every chunk and faulted in again cost as much as digesting it.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 << 20)
    except (OSError, AttributeError):
        LOG.debug("no mallopt here")


def _poweroff() -> None:
    subprocess.run(["systemctl", "poweroff"], check=False)


def _reboot() -> None:
    subprocess.run(["systemctl", "reboot"], check=False)


def _prepare(config_path: Path, output: Path, root: Path | None) -> int:
    try:
        found = settings.load(config_path)
    except ConfigError as error:
        LOG.error("settings: %s", error)
        return 1
    for origin in found.origins:
        LOG.info("%s: from %s", origin.field, origin.source)
    problems = list(found.problems)
    try:
        # Logins first: the network may wait for a link.
        problems += livesetup.apply(found.config, root) if root is not None else []
        plan = netconfig.plan(found.config.network)
        problems += plan.problems
        for written in netconfig.write(plan.files, output):
            LOG.info("wrote %s", written)
    except OSError as error:
        LOG.error("settings: %s", error)
        return 1
    for problem in problems:
        LOG.warning("settings: %s", problem)
    if root is not None:
        livesetup.note_problems(problems, root)
    return 0


def _consoles(arguments: argparse.Namespace, config: Config | None) -> list[Path]:
    if arguments.console:
        return list(arguments.console)
    paths = [path for path in DEFAULT_CONSOLES if path.exists()]
    if config is not None and config.serial_console is None:
        paths = [path for path in paths if path.name != "ttyS0"]
    return paths


def _run(arguments: argparse.Namespace) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    keeper = logs.LogKeeper()
    logging.getLogger().addHandler(keeper)
    status = Status(LOG.info)
    config, problem = None, ""
    try:
        found = settings.load(arguments.config)
        config = found.config
        for sentence in dict.fromkeys([*found.problems, *livesetup.noted_problems()]):
            status.event(sentence)
        clock.start(config.time.ntp, stop, status.event)
        tls_context(config.site.ca_pem)
    except ssl.SSLError:
        config, problem = None, "the settings of this ISO cannot be used: site.ca_pem holds no certificate"
    except ConfigError as error:
        problem = f"the settings of this ISO cannot be used: {error}"
    machine = Machine(None, _reboot, _poweroff, config=config)
    keys = Keys()
    with (
        logs.MemoryWatch() as watch,
        Seats(_consoles(arguments, config), machine, status, keys, _console_mode(config)),
    ):
        if config is None:
            status.phase(Phase.FAILED, problem)
            if not arguments.once:
                stop.wait()
            return 2
        image = " ".join(part for part in (config.image.volume_id, config.image.build_id) if part)
        status.booted(config.image.version or __version__, image, config.banner or "")
        agent = Agent(
            config, status, stop, images=tuple(arguments.source), logged=partial(_logged, keeper, watch, config)
        )
        machine.agent = agent
        # A laboratory's way to the site is no machine's: there it is tested on demand only.
        with Doctor(agent, by_itself=not arguments.source) as doctor:
            machine.test = doctor.test
            return _work(agent, keys, once=arguments.once, laboratory=bool(arguments.source))


def _work(agent: Agent, keys: Keys, *, once: bool, laboratory: bool) -> int:
    """Migrate, and after an end begin again if a person at the machine wants that."""
    while True:
        try:
            complete = agent.run()
            if once:
                return 0 if complete else 1
            _last_word(agent, keys, laboratory=laboratory)
        except BeginAgainError:
            continue
        except Stopped:
            return 3


def _console_mode(config: Config | None) -> str:
    return wanted_mode(config.console_mode if config else "auto", read_text(PROC / "cmdline", 1 << 16) or "")


def _logged(keeper: logs.LogKeeper, watch: logs.MemoryWatch, config: Config) -> bytes:
    """The logs as the site takes them."""
    parts = [("memory", [watch.line()]), ("agent", keeper.lines()), ("kernel", logs.kernel_lines())]
    return logs.pack(parts, logs.Scrubber(logs.secrets_of(config)))


def _last_word(agent: Agent, keys: Keys, *, laboratory: bool) -> None:
    """What comes after the migration or the assessment, until somebody ends it. Raises Stopped, BeginAgainError."""
    do = {Act.REBOOT: _reboot, Act.POWER_OFF: _poweroff}
    # The machine on which a laboratory's image files lie stays as it is.
    actions = {} if laboratory else {key: (WORDS[act], do[act]) for key, act in KEYS.items()}
    session = agent.last_session
    ending.finish(agent, keys, actions, session.at_end if session else LEFT_OPEN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. 0: copied or assessed; 1: the migration ended otherwise; 2: settings; 3: stopped by a signal."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.command == "network":
        return _prepare(arguments.config, arguments.output, arguments.root)
    _bound_memory()
    return _run(arguments)
