# SPDX-License-Identifier: GPL-3.0-or-later
"""The service as it runs: two processes, TLS, signals."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from coldmig_gateway import cli
from gateway.sitekit import TEMPLATE, machine
from support.processes import free_port

START_SECONDS = 60.0


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    token: str

    def client(self, token: str | None = None) -> httpx.Client:
        """A client that trusts the site's CA."""
        context = ssl.create_default_context(cafile=self.state / "pki" / "ca.pem")
        headers = {"Authorization": f"Bearer {token or self.token}"}
        base = f"https://127.0.0.1:{self.port}"
        return httpx.Client(base_url=base, verify=context, headers=headers, timeout=30, trust_env=False)

    def control_plane(self) -> int:
        """The process id of the control plane."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    port, state, config, token = free_port(), tmp_path / "state", tmp_path / "gateway.toml", tmp_path / "token"
    arguments = ["--state-dir", str(state), "--name", "127.0.0.1", "--listen", "127.0.0.1", "--port", str(port)]
    assert cli.main(["--config", str(config), "init", *arguments, "--token-file", str(token)]) == 0
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "coldmig_gateway", "--config", str(config), "serve"]
        environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    running = Service(process, port, state, token.read_text().strip())
    try:
        _wait_until_healthy(running)
        yield running
    finally:
        process.kill()
        process.wait()


def _wait_until_healthy(service: Service) -> None:
    deadline = time.monotonic() + START_SECONDS
    with service.client() as client:
        while True:
            try:
                assert client.get("/api/v1/health").json()["status"] == "ok"
                return
            except httpx.TransportError:
                assert service.process.poll() is None, "the service ended while starting"
                assert time.monotonic() < deadline, "the service did not start"
                time.sleep(0.1)


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)


def test_a_machine_registers_over_tls_and_its_address_is_known(service: Service) -> None:
    with service.client() as provider:
        provider.put("/api/v1/activation", json={"active": True, "organizations": ["acme"]}).raise_for_status()
        template = provider.post("/api/v1/templates", json=TEMPLATE | {"organization": "acme"}).json()
        made = provider.post(f"/api/v1/templates/{template['id']}/iso-credentials", json={}).json()
        with service.client(made["credential"]) as iso:
            enrolment = iso.post("/api/v1/enrolments", json=machine()).json()
        seen = provider.get(f"/api/v1/migrations/{enrolment['migration_id']}").json()
        assert (seen["state"], seen["source_ip"]) == ("waiting", "127.0.0.1")
        assert provider.get("/api/v1/site").json()["ca_pem"] == (service.state / "pki" / "ca.pem").read_text()
        with service.client(enrolment["session_token"]) as agent:
            refused = agent.post("/data/v1/frames", headers={"Content-Type": "application/vnd.coldmig.frames"})
            assert (refused.status_code, refused.json()["state"]) == (409, "waiting")


def test_sigterm_stops_both_processes(service: Service) -> None:
    child = service.control_plane()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(START_SECONDS) == 0
    _wait_until_gone(child)
    assert list((service.state / "run").iterdir()) == []


def test_the_death_of_the_control_plane_ends_the_service(service: Service) -> None:
    os.kill(service.control_plane(), signal.SIGKILL)
    assert service.process.wait(START_SECONDS) == 1


def test_the_death_of_the_front_ends_the_control_plane(service: Service) -> None:
    child = service.control_plane()
    service.process.kill()
    _wait_until_gone(child)


def test_nobody_else_may_reach_the_control_plane_s_socket(service: Service) -> None:
    assert (service.state / "run").stat().st_mode & 0o777 == 0o700


def test_a_taken_port_is_an_error_in_one_line(service: Service, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    arguments = ["--name", "127.0.0.1", "--listen", "127.0.0.1", "--port", str(service.port)]
    assert cli.main(["--config", str(other), "init", "--state-dir", str(tmp_path / "other"), *arguments]) == 0
    command = [sys.executable, "-m", "coldmig_gateway", "--config", str(other), "serve"]
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=START_SECONDS, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "in use" in ended.stderr
