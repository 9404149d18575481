# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts network settings into force on the running live system. Nothing of it outlives this boot."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from coldmig_agent import netconfig
from coldmig_agent.netsettings import NetworkConfig

NETWORKD_DIR = Path("/run/systemd/network")
_SECONDS = 60.0
_NAME = re.compile(r"^\[NetDev\]\nName=(\S+)$", re.MULTILINE)


class NetworkApplyError(RuntimeError):
    """systemd-networkd did not take the settings; the text is for a person."""


def devices(files: Mapping[str, str]) -> dict[str, str]:
    """Name → content of the devices (VLANs, bonds) that files make."""
    found = {}
    for name, content in files.items():
        match = _NAME.search(content) if name.endswith(".netdev") else None
        if match is not None:
            found[match[1]] = content
    return found


def _present(output: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="ascii") for path in output.glob(f"*{netconfig.FILE_MARK}*.netdev")}


def apply(network: NetworkConfig, output: Path = NETWORKD_DIR) -> tuple[str, ...]:
    """Write networkd's files anew and start it again; what it made before and is not wanted any more goes.

    Takes seconds. Returns sentences on settings that fit no card of this machine. Raises NetworkApplyError.
    """
    planned = netconfig.plan(network)
    before, after = devices(_present(output)), devices(planned.files)
    try:
        # Without a message bus in the live system "networkctl reload" has nobody to talk to.
        _run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd.service")
        for name in sorted(before):
            # networkd does not change a device that is there already (another VLAN number, another mode).
            if before[name] != after.get(name) and Path("/sys/class/net", name).exists():
                _run("ip", "link", "delete", name)
        netconfig.write(planned.files, output)
        _run("systemctl", "start", "systemd-networkd.socket", "systemd-networkd.service")
    except OSError as error:
        raise NetworkApplyError(f"the network settings could not be applied: {error}") from error
    return planned.problems


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NetworkApplyError(f"{' '.join(command)} took longer than {_SECONDS:.0f} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise NetworkApplyError(f"{' '.join(command)}: {said[0]}")
