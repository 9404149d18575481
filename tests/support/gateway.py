# SPDX-License-Identifier: GPL-3.0-or-later
"""A real gateway: ``coldmig-gateway`` as its own processes, with its state below a directory, and its API."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import agent
from .api import Api, ApiError, Connect
from .processes import GATEWAY_SOURCE, PATIENCE, Service, SupportError, free_port, python_path, tail, wait_until

__all__ = ["ENDED", "ORGANIZATION", "Api", "ApiError", "Gateway", "SupportError"]

ORGANIZATION = "acme"
ENDED = ("finished", "failed", "canceled")


class Gateway:
    """``coldmig-gateway`` on the loopback interface. A context manager: leaving it stops the service.

    ``call`` and the shortcuts below it speak as the provider unless they are told otherwise.
    """

    def __init__(
        self,
        directory: Path,
        *,
        names: Sequence[str] = ("127.0.0.1", "localhost"),
        listen: str = "127.0.0.1",
        port: int | None = None,
        organization: str = ORGANIZATION,
        options: Sequence[str] = ("--poll-seconds", "1"),
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        connect: Connect | None = None,
        source: Path = GATEWAY_SOURCE,
        log: Path | None = None,
    ) -> None:
        """Nothing is made before ``init``.

        ``options`` are more options of ``coldmig-gateway init``; ``env`` is added to the environment of the processes,
        ``prefix`` comes before their command (to enter a network namespace), ``connect`` reaches them there.
        ``source`` may be another version of the gateway.
        """
        # The control plane's socket lies in the state directory, and names of sockets must be short.
        self.directory = directory
        self.state = directory / "state"
        self.config = directory / "gateway.toml"
        self.log = log or directory / "serve.log"
        self.organization = organization
        self.port = port or free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = self.state / "pki/ca.pem"
        self.staging = self.state / "staging"
        self.database = self.state / "gateway.db"
        self.env = python_path(source) | dict(env or {})
        self.prefix = list(prefix)
        self.tokens: dict[str, str] = {}
        self._options = ["--state-dir", str(self.state), *(word for name in names for word in ("--name", name))]
        self._options += ["--listen", listen, "--port", str(self.port), *options]
        self._connect = connect
        self._service: Service | None = None

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- the program ------------------------------------------------------------------------------------------------

    def argv(self, *words: str) -> list[str]:
        """A command of ``coldmig-gateway`` for this site."""
        return [*self.prefix, sys.executable, "-m", "coldmig_gateway", "--config", str(self.config), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its status."""
        return subprocess.run(
            self.argv(*words), capture_output=True, text=True, env=self.env, check=False, timeout=PATIENCE
        )

    def command(self, *words: str) -> str:
        """Run a command that must succeed; its standard output. Raises SupportError."""
        done = self.run(*words)
        if done.returncode != 0:
            raise SupportError(f"coldmig-gateway {words[0]} failed:\n{done.stderr}")
        return done.stdout

    def init(self) -> Gateway:
        """Make configuration, database, CA and the first provider token."""
        self.directory.mkdir(parents=True, exist_ok=True)
        token = self.directory / "provider.token"
        self.command("init", *self._options, "--token-file", str(token))
        self.tokens["provider"] = token.read_text().strip()
        return self

    def configure(self, **values: object) -> Gateway:
        """Add settings to the configuration; they hold from the next start."""
        with self.config.open("a") as file:
            file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        return self

    def start(self, seconds: float = PATIENCE) -> Gateway:
        """Start the service and wait until it answers. Raises SupportError with its log."""
        self._service = Service("the gateway", self.argv("serve"), self.log, self.env)
        self._service.wait_until(self.healthy, seconds)
        return self

    def healthy(self) -> bool:
        """Whether the API answers."""
        try:
            return bool(Api(self.url, self.ca, "", self._connect).get("/health")["status"] == "ok")
        except (OSError, SupportError, ValueError):
            return False

    @property
    def service(self) -> Service:
        """The running service."""
        if self._service is None:
            raise SupportError("the gateway was not started")
        return self._service

    @property
    def running(self) -> bool:
        """Whether the service runs."""
        return self._service is not None and self._service.alive

    def stop(self) -> None:
        """End it with SIGTERM."""
        if self._service is not None:
            self._service.stop()
            self._service = None

    def kill(self) -> None:
        """End all its processes at once, as loss of power would."""
        if self._service is not None:
            self._service.kill()
            self._service = None

    def log_text(self) -> str:
        """Everything the service has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # --- the API ----------------------------------------------------------------------------------------------------

    @property
    def ca_pem(self) -> str:
        """The certificate that clients trust."""
        return self.ca.read_text()

    @property
    def provider(self) -> str:
        """The provider's token."""
        return self.tokens["provider"]

    def api(self, who: str = "provider") -> Api:
        """The gateway as ``provider``, as an organization whose token was made here, or as the bearer of a token."""
        return Api(self.url, self.ca, self.tokens.get(who, who), self._connect)

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        """One request to the control plane; the decoded answer. Raises ApiError and OSError."""
        return self.api(token or "provider").call(method, path, body)

    def activate(self, *organizations: str) -> None:
        """Let machines of these organizations register too (without any: of ``organization``)."""
        known = self.call("GET", "/activation")["organizations"]
        wanted = sorted({*known, *(organizations or (self.organization,))})
        self.call("PUT", "/activation", {"active": True, "organizations": wanted})

    def organization_token(self, organization: str) -> str:
        """A new token of an organization, kept for ``api``."""
        answer = self.call("POST", "/tokens", {"organization": organization, "description": "made by a test"})
        self.tokens[organization] = str(answer["token"])
        return self.tokens[organization]

    def template(self, name: str, organization: str | None = None, **more: Any) -> dict[str, Any]:
        """A new template; ``more`` are its other fields."""
        body = {"name": name, "organization": organization or self.organization, "destination": {"vdc": "vdc1"}}
        made: dict[str, Any] = self.call("POST", "/templates", {**body, **more})
        return made

    def iso(
        self,
        name: str,
        *,
        auto_start: bool = True,
        url: str | None = None,
        template: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """The settings of an ISO: of ``template``, or of a new one called ``name`` with the fields ``more``.

        ``url`` is the site's address on the ISO when it is not the gateway's own (a relay).
        """
        used = template or self.template(name, auto_start=auto_start, **more)
        issued = self.call(
            "POST", f"/templates/{used['id']}/iso-credentials", {"ttl_hours": 1, "description": "made by a test"}
        )
        reference = {key: used[key] for key in ("id", "name", "organization")}
        return agent.iso_settings(url or self.url, self.ca_pem, issued["credential"], template=reference)

    def migration(self, identity: str) -> Any:
        """One migration."""
        return self.call("GET", f"/migrations/{identity}")

    def migrations(self, template: str | None = None) -> list[dict[str, Any]]:
        """Migrations, newest first; of the template with this name only."""
        return self.api().items("/migrations" + (f"?template={template}" if template else ""))

    def only_migration(self, template: str) -> Any:
        """The one migration of a template; waits until it is there. Raises SupportError when there are more."""
        found = wait_until(lambda: self.migrations(template), f"a migration of template {template}")
        if len(found) != 1:
            raise SupportError(f"template {template} has {len(found)} migrations")
        return found[0]

    def wait_for(self, identity: str, *states: str, seconds: float = PATIENCE) -> Any:
        """The migration once it is in one of these states. Raises SupportError, at once when it ends otherwise."""
        migration: Any = None

        def reached() -> bool:
            nonlocal migration
            migration = self.migration(identity)
            if migration["state"] in ENDED and migration["state"] not in states:
                raise SupportError(f"the migration is {migration['state']}: {migration.get('reason')}")
            return migration["state"] in states

        what = " or ".join(states)
        wait_until(reached, lambda: f"{what}; it is {migration['state']}:\n{tail(self.log)}", seconds, 0.1)
        return migration

    def audit(self, identity: str) -> list[dict[str, Any]]:
        """The audit trail of a migration."""
        return self.api().items(f"/migrations/{identity}/audit")

    def events(self, identity: str) -> list[str]:
        """The names of the events in the audit trail."""
        return [item["event"] for item in self.audit(identity)]

    def image(self, identity: str, disk: int, target: Path, size: int | None = None) -> Path:
        """The disk as it would go to vCenter, unpacked by qemu-img to a raw image (of ``size`` bytes)."""
        vmdk = target.with_suffix(".vmdk")
        with self.api().open("GET", f"/data/v1/migrations/{identity}/disks/{disk}/image.vmdk") as answer:
            with vmdk.open("wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            if answer.length:
                raise SupportError(f"the image ends {answer.length} bytes too early")
        argv = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(vmdk), str(target)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SupportError(f"qemu-img does not read the image: {done.stderr}")
        vmdk.unlink()
        if size is not None:
            with target.open("r+b") as file:
                file.truncate(size)
        return target

    def content(self) -> str:
        """All that the gateway keeps in its database, to compare before and after."""
        connection = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)
        try:
            return "\n".join(connection.iterdump())
        finally:
            connection.close()
