# SPDX-License-Identifier: GPL-3.0-or-later
"""Start the simulated vCenter and VCD, and keep them until SIGTERM.

usage: run.py --state FILE [--folder DIR] [--scenario FILE] [--lease-timeout SECONDS] [--task-seconds SECONDS]

FILE (0600) gets addresses, credentials and the CA's path when both serve; its content is described in README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulators import scenario as scenarios
from simulators.certificates import Authority
from simulators.control import Control, VcenterControl
from simulators.vcenter.build import build

HERE = Path(__file__).resolve().parent
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0


class StartError(RuntimeError):
    """A simulator did not start; the text has the end of its log."""


@dataclass
class Site:
    """Two running simulators. `state` is what the state file holds."""

    state: dict[str, Any]
    folder: Path

    @property
    def ca(self) -> Path:
        """PEM file to trust."""
        return Path(self.state["ca"])

    @property
    def vcenter(self) -> VcenterControl:
        """Control endpoint of the vCenter."""
        control = self.state["vcenter"]["control"]
        return VcenterControl(control["url"], control["token"], self.ca)

    @property
    def vcd(self) -> Control:
        """Control endpoint of the VCD."""
        control = self.state["vcd"]["control"]
        return Control(control["url"], control["token"], self.ca)


class _Child:
    """A simulator process: configured by a file, ready when it prints a line.

    SIGTERM ends it, and so does the end of its stdin, which comes even when we are killed.
    """

    def __init__(self, name: str, command: list[str], config: dict[str, Any], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        config_path = folder / f"{name}.json"
        _write_private(config_path, config)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(config_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(HERE.parent)},
                start_new_session=True,  # a Ctrl-C is for the launcher, which stops the children in order
            )

    def ready(self) -> dict[str, Any]:
        stdout: IO[bytes] = self.process.stdout  # type: ignore[assignment]
        deadline = time.monotonic() + START_TIMEOUT
        readable, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = stdout.readline() if readable else b""
        if not line:
            raise StartError(f"{self.name} did not start: {self.log.read_text(errors='replace')[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()


def _write_private(path: Path, data: dict[str, Any]) -> None:
    """Write the file in one step, so that a reader that waits for it never sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
    fresh.replace(path)


@contextlib.contextmanager
def running(
    folder: Path | None = None,
    *,
    scenario: Path = scenarios.DEFAULT,
    lease_timeout: float = 300.0,
    task_seconds: float = 0.3,
    inventory_lag: float = 0.5,
) -> Iterator[Site]:
    """Run both simulators for the time of a with block.

    Args:
        folder: Logs, certificates and received disks; a temporary one, removed at the end, when not given.
        scenario: YAML file with organizations, VDCs and so on.
        lease_timeout: Seconds without progress after which an import lease dies (a real one: 300).
        task_seconds: How long a VCD task runs.
        inventory_lag: Seconds until VCD knows a VM that is new in vCenter.

    Raises:
        StartError, simulators.vcenter.build.BuildError, ValueError (scenario).
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="coldmig-simulators-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        data = scenarios.load(scenario)
        authority = Authority(folder)
        binary = build()
        vcenter_token, vcd_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        vcenter_cert, vcd_cert = authority.issue("vcenter"), authority.issue("vcd")
        vc = data["vcenter"]

        vcenter = _Child(
            "vcenter",
            [str(binary)],
            {
                "listen": "127.0.0.1:0",
                "certificate": str(vcenter_cert.certificate),
                "key": str(vcenter_cert.key),
                "username": vc["username"],
                "password": vc["password"],
                "control_token": vcenter_token,
                "store": str(folder / "received"),
                "lease_timeout_seconds": lease_timeout,
                "inventory": {
                    key: vc[key]
                    for key in (
                        "datacenter", "cluster", "hosts", "datastore", "datastore_bytes",
                        "resource_pools", "folders", "portgroups",
                    )
                },
            },
            folder,
        )  # fmt: skip
        stack.callback(vcenter.stop)
        vcenter_url = vcenter.ready()["url"]
        vcenter_control = {"url": vcenter_url, "token": vcenter_token}

        vcd = _Child(
            "vcd",
            [sys.executable, "-m", "simulators.vcd.server"],
            {
                "listen": ["127.0.0.1", 0],
                "certificate": str(vcd_cert.certificate),
                "key": str(vcd_cert.key),
                "ca": str(authority.path),
                "control_token": vcd_token,
                "vcenter": {**vcenter_control, "username": vc["username"]},
                "task_seconds": task_seconds,
                "inventory_lag": inventory_lag,
                "scenario": data["vcd"],
            },
            folder,
        )
        stack.callback(vcd.stop)
        vcd_url = vcd.ready()["url"]

        host, _, port = vcenter_url.removeprefix("https://").partition(":")
        yield Site(
            {
                "ca": str(authority.path),
                "folder": str(folder),
                "vcenter": {
                    **vc,
                    "url": vcenter_url,
                    "host": host,
                    "port": int(port),
                    "store": str(folder / "received"),
                    "control": vcenter_control,
                    "pid": vcenter.process.pid,
                },
                "vcd": {
                    **data["vcd"],
                    "url": vcd_url,
                    "control": {"url": vcd_url, "token": vcd_token},
                    "pid": vcd.process.pid,
                },
            },
            folder,
        )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Simulated vCenter and VCD for tests.")
    parser.add_argument("--state", type=Path, required=True, help="JSON file to write when both serve")
    parser.add_argument("--folder", type=Path, help="logs, certificates, received disks (default: temporary)")
    parser.add_argument("--scenario", type=Path, default=scenarios.DEFAULT)
    parser.add_argument("--lease-timeout", type=float, default=300.0)
    parser.add_argument("--task-seconds", type=float, default=0.3)
    parser.add_argument("--inventory-lag", type=float, default=0.5)
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    with running(
        options.folder,
        scenario=options.scenario,
        lease_timeout=options.lease_timeout,
        task_seconds=options.task_seconds,
        inventory_lag=options.inventory_lag,
    ) as site:
        _write_private(options.state, site.state)
        print(
            f"vCenter {site.state['vcenter']['url']}  VCD {site.state['vcd']['url']}  state {options.state}", flush=True
        )
        stop.wait()
    options.state.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
