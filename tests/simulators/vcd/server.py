# SPDX-License-Identifier: GPL-3.0-or-later
"""The simulated VCD's server process.

usage: python -m simulators.vcd.server CONFIG.json

It prints one line of JSON on stdout when it serves, and ends on SIGTERM or when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lxml import etree

from simulators.control import VcenterControl
from simulators.vcd import cloudapi, legacy
from simulators.vcd.errors import ApiError
from simulators.vcd.faults import Faults
from simulators.vcd.http import Answer, Request, Route, Routes
from simulators.vcd.markup import Media, el, serialize
from simulators.vcd.model import Session, Site
from simulators.vcd.schemas import Judge, folder

_ACCEPT = {
    "xml": re.compile(r"\*/\*|application/\*(?:\+xml)?|application/vnd\.vmware\.[\w.]+\+xml|text/xml", re.IGNORECASE),
    "json": re.compile(r"\*/\*|application/\*|application/(?:\*\+)?json", re.IGNORECASE),
}
_VERSION = re.compile(r";\s*version=([0-9]+)\.([0-9]+)(?:\.0)?\s*(?:$|[;,])")
MAX_BODY = 4 << 20


def _version(value: str) -> tuple[int, int]:
    major, minor = value.split(".")
    return int(major), int(minor)


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "task_seconds": float, "inventory_lag": float, "idle_seconds": float, "discovery_seconds": float,
    "oldest": _version, "newest": _version, "vm_quota": int, "storage_limit_mb": int, "runtime_lease": int,
    "standalone_networks": str,
}  # fmt: skip


def _negotiate(accept: str, family: str, served: list[tuple[int, int]]) -> tuple[int, int]:
    """Give the API version that an Accept header asks for.

    Raises:
        ApiError: 406 when it names none that is served, or a form that is not.
    """
    match = _VERSION.search(accept)
    if match is None:
        raise ApiError(406, "NOT_ACCEPTABLE", f"The request has no API version in its Accept header: {accept!r}")
    version = (int(match[1]), int(match[2]))
    if version not in served:
        supported = ", ".join(f"{major}.{minor}" for major, minor in served)
        raise ApiError(
            406, "NOT_ACCEPTABLE", f"The API version {match[1]}.{match[2]} is not served; served are {supported}"
        )
    if not any(_ACCEPT[family].fullmatch(part.partition(";")[0].strip()) for part in accept.split(",")):
        raise ApiError(406, "NOT_ACCEPTABLE", f"Nothing in {accept!r} can be answered here with {family}")
    return version


class Application:
    """Everything behind the socket."""

    def __init__(self, config: dict[str, Any]) -> None:
        vcenter = config["vcenter"]
        self.site = Site(config, VcenterControl(vcenter["url"], vcenter["token"], config["ca"]))
        self.judge = Judge(folder())
        self.control_token: str = config["control_token"]
        self.routes = Routes()
        self.routes.extend(cloudapi.routes)
        self.routes.extend(legacy.routes)

    def serve(self, handler: Handler) -> None:
        """Answer one request."""
        path, _, query = handler.path.partition("?")
        body = handler.read_body()
        if path.startswith("/__sim/"):
            handler.send(*self._control(handler, path[len("/__sim/") :], body), "application/json", {})
            return
        faults = self.site.faults
        if faults.slow_seconds:
            time.sleep(faults.slow_seconds)
        if faults.unreachable:
            handler.drop()
            return
        started = time.monotonic()
        headers = {key.lower(): value for key, value in handler.headers.items()}
        base = f"https://{headers.get('host', 'localhost')}"
        request = Request(
            handler.command, unquote(path), dict(parse_qsl(query)), headers, body, base,
            self.site, self.judge, self.site.versions[0],
        )  # fmt: skip
        rule = self._injected(request)
        action = rule.get("action") if rule else None
        if rule and action in ("hang", "drop"):
            self._hang(faults, rule)
            handler.drop()
            return
        answer, family = self._dispatch(request, path, rule if action == "refuse" else None)
        status, data, media = self._render(request, answer, family)
        self._log(request, status)
        if rule and action in ("hang-after", "lose"):
            self._hang(faults, rule)
            handler.drop()
            return
        if self._take(faults.lose_answers, request) is not None:
            handler.drop()
            return
        extra = dict(answer.headers)
        client_id = re.sub(r"[^A-Za-z0-9-]", "", headers.get("x-vmware-vcloud-client-request-id", ""))[:128]
        extra["X-VMWARE-VCLOUD-REQUEST-ID"] = f"{client_id}-{uuid.uuid4()}" if client_id else str(uuid.uuid4())
        extra["X-VMWARE-VCLOUD-REQUEST-EXECUTION-TIME"] = str(int((time.monotonic() - started) * 1000))
        if status == 401:
            extra["WWW-Authenticate"] = 'Basic realm="VMware Cloud Director"'
        handler.send(status, data, media, extra)

    def _injected(self, request: Request) -> dict[str, Any] | None:
        """Give what shall happen to this call, after the delays that are meant for it."""
        if (delay := self._take(self.site.faults.delays, request)) is not None:
            self.site.faults.over.wait(delay["seconds"])
        with self.site.lock:
            rule = self.site.faults.call(request.method, request.path)
            if rule is not None:
                self.site.record("call-fault", action=rule["action"], method=request.method, path=request.path)
            return rule

    @staticmethod
    def _hang(faults: Faults, rule: dict[str, Any]) -> None:
        if rule["action"].startswith("hang"):
            faults.over.wait(rule.get("seconds"))

    def _dispatch(self, request: Request, path: str, refusal: dict[str, Any] | None) -> tuple[Answer, str]:
        family = "json" if path.startswith(("/cloudapi", "/oauth")) else "xml"
        try:
            refusal = refusal or self._take(self.site.faults.refuse, request)
            if refusal is not None:
                raise ApiError(
                    refusal.get("status", 500),
                    refusal.get("minor", "INTERNAL_SERVER_ERROR"),
                    refusal.get("message", "fault injected"),
                )
            # matched as it was sent: a slash that is percent-encoded does not end a segment
            route, values = self.routes.find(request.method, path)
            values = {key: unquote(value) for key, value in values.items()}
            if path.rstrip("/") != "/api/versions":
                request.version = _negotiate(request.headers.get("accept", ""), family, self.site.versions)
            if not route.open:
                request.session = self._authenticate(request)
            return self._call(route, request, values), family
        except ApiError as error:
            return self._error(request, error, family), family
        except Exception as error:
            traceback.print_exc()
            self.site.violations.append(f"{request.method} {request.path}: {error!r}")
            return self._error(request, ApiError(500, "INTERNAL_SERVER_ERROR", repr(error)), family), family

    def _call(self, route: Route, request: Request, values: dict[str, str]) -> Answer:
        with self.site.lock:
            return route.handler(request, **values)

    def _authenticate(self, request: Request) -> Session:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        session = self.site.session(token.strip()) if scheme.lower() == "bearer" else None
        if session is None:
            raise ApiError(401, "UNAUTHORIZED", "The session is not valid, or has expired.")
        return session

    def _error(self, request: Request, error: ApiError, family: str) -> Answer:
        if family == "json":
            body: Any = {"minorErrorCode": error.minor, "message": error.message, "stackTrace": None}
            return Answer(error.status, body)
        if request.session is not None:
            document = request.views.error(error)
        else:
            document = el(
                "Error",
                {"majorErrorCode": error.status, "minorErrorCode": error.minor, "message": error.message},
            )
        return Answer(error.status, document, Media.ERROR)

    def _render(self, request: Request, answer: Answer, family: str) -> tuple[int, bytes, str | None]:
        if answer.body is None:
            return answer.status, b"", None
        version = f"{request.version[0]}.{request.version[1]}"
        if isinstance(answer.body, etree._Element):
            data = serialize(answer.body)
            # judged as it goes out, so that the simulator is held to the same schema as its clients
            for problem in self.judge.errors(etree.fromstring(data)):
                self.site.violations.append(f"{request.method} {request.path} → {answer.status}: {problem}")
            media = answer.media or "application/*+xml"
            return answer.status, data, media if media == "text/xml" else f"{media};version={version}"
        data = json.dumps(answer.body).encode()
        return answer.status, data, f"application/json;version={version}" if family == "json" else "application/json"

    def _log(self, request: Request, status: int) -> None:
        with self.site.lock:
            user = request.session.user if request.session else None
            self.site.requests.append(
                {
                    "method": request.method,
                    "path": request.path,
                    "parameters": request.parameters,
                    "status": status,
                    "version": f"{request.version[0]}.{request.version[1]}",
                    "user": f"{user.name}@{user.org.name}" if user else None,
                    "client_request_id": request.headers.get("x-vmware-vcloud-client-request-id"),
                    "body": request.body.decode(errors="replace") if "oauth" not in request.path else "",
                }
            )

    def _take(self, rules: list[dict[str, Any]], request: Request) -> dict[str, Any] | None:
        """Find the first rule for this request, and use it up if it is for so many times only."""
        with self.site.lock:
            for rule in rules:
                if rule.get("method", request.method) == request.method and re.search(rule["path"], request.path):
                    times = rule.get("times", 0)
                    if times == 1:
                        rules.remove(rule)
                    elif times:
                        rule["times"] = times - 1
                    return rule
        return None

    # control endpoint

    def _control(self, handler: Handler, path: str, body: bytes) -> tuple[int, bytes]:
        if handler.headers.get("X-Sim-Token") != self.control_token:
            return 403, b'{"error": "X-Sim-Token"}'
        site = self.site
        call = f"{handler.command} {path}"
        with site.lock:
            try:
                data = json.loads(body) if body else {}
                answer: Any = {}
                if call == "GET requests":
                    answer = site.requests
                elif call == "GET violations":
                    answer = {"schemas": self.judge.available, "violations": site.violations}
                elif call == "GET faults":
                    answer = site.faults.as_json()
                elif call == "PUT faults":
                    faults, site.faults = site.faults, Faults(**data)
                    faults.over.set()
                elif call == "GET events":
                    after = int(dict(parse_qsl(urlsplit(handler.path).query)).get("after", 0))
                    answer = site.events[max(0, after) :]
                elif call == "PUT settings":
                    for key in data:
                        if key not in _SETTINGS:
                            raise ValueError(f"no setting {key}; there are {', '.join(_SETTINGS)}")
                    for key, value in data.items():
                        setattr(site, key, _SETTINGS[key](value))
                elif call == "POST expire-sessions":
                    site.sessions.clear()
                elif call == "GET vapps":
                    answer = self._vapps()
                else:
                    return 404, json.dumps({"error": f"no such call: {call}"}).encode()
            except (TypeError, ValueError) as error:
                return 400, json.dumps({"error": str(error)}).encode()
            return 200, json.dumps(answer).encode()

    def _vapps(self) -> list[dict[str, Any]]:
        """Everything about the vApps in one JSON document, for tests."""
        site = self.site
        found = []
        for vapp in site.vapps.values():
            vms = [
                {
                    "id": vm.id,
                    "name": vm.name,
                    "moref": vm.moref,
                    "description": vm.description,
                    "status": site.vm_status(vm, site.hardware(vm)),
                    "deployed": vm.deployed,
                    "storage_profile": vm.profile.name,
                    "sizing_policy": vm.sizing_policy,
                    "disk_profiles": {str(key): profile.name for key, profile in vm.disk_profiles.items()},
                    "customization": vm.customization,
                    "nics": [vars(nic) for nic in vm.nics],
                    "primary_nic": vm.primary_nic,
                    "metadata": {entry.key: entry.value for entry in vm.metadata.values()},
                    "metadata_domains": {entry.key: entry.domain for entry in vm.metadata.values()},
                }
                for vm in vapp.vms
            ]
            found.append(
                {
                    "id": vapp.id,
                    "name": vapp.name,
                    "description": vapp.description,
                    "org": vapp.vdc.org.name,
                    "vdc": vapp.vdc.name,
                    "owner": vapp.owner.name,
                    "status": site.vapp_status(vapp),
                    "networks": {
                        name: {"fence": network.fence, "parent": network.parent.name if network.parent else None}
                        for name, network in vapp.networks.items()
                    },
                    "metadata": {entry.key: entry.value for entry in vapp.metadata.values()},
                    "auto_nature": vapp.auto_nature,
                    "busy": vapp.task is not None and not vapp.task.is_over,
                    "vms": vms,
                }
            )
        return found


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    application: Application
    timeout = 300

    def setup(self) -> None:
        """Do the TLS handshake here, in the connection's own thread."""
        assert isinstance(self.request, ssl.SSLSocket)
        self.request.settimeout(30)
        self.request.do_handshake()
        super().setup()

    def read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY or "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status: int, body: bytes, media: str | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        if media:
            self.send_header("Content-Type", media)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        self.application.serve(self)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815

    def version_string(self) -> str:
        return "VMware Cloud Director"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        print(f"{self.address_string()} {format % args}", file=sys.stderr, flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write down what is not a client that went away."""
        if not isinstance(sys.exception(), OSError):
            traceback.print_exc()


def main(path: str) -> int:
    """Serve until SIGTERM, or until the launcher is gone."""
    config = json.loads(Path(path).read_text())
    handler = type("BoundHandler", (Handler,), {"application": Application(config)})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config["certificate"], config["key"])
    server = Server(tuple(config["listen"]), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True).start()
    print(json.dumps({"url": f"https://127.0.0.1:{server.server_address[1]}"}), flush=True)

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def watch_launcher() -> None:
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=watch_launcher, daemon=True).start()
    stop.wait()
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
