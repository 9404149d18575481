# SPDX-License-Identifier: GPL-3.0-or-later
"""The ISO's settings: ``/run/coldmig/config.json``, written into the image when it was made for a template.

Every value is checked before anything starts; an error names the field, the value and what would be right.
The credential's value is never part of an error.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

MAX_CONFIG_BYTES = 1 << 20
MAX_INTERFACES = 64
_HOST = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$")
_MAC = re.compile(r"^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$")
_IFNAME = re.compile(r"^[A-Za-z0-9_.-]{1,15}$")
_CREDENTIAL = re.compile(r"^cm1_iso_[A-Za-z0-9_-]{43}$")


class ConfigError(ValueError):
    """The ISO's settings are wrong: which field, what it holds, what is allowed."""

    def __init__(self, field: str, value: object, allowed: str, *, secret: bool = False) -> None:
        shown = "(not shown)" if secret else json.dumps(value, default=str)[:120]
        super().__init__(f"{field}: {shown} is not valid; it must be {allowed}")
        self.field = field
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port, with the user and password of a proxy where it wants them."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """Where the site is and the one certificate authority that it is known by."""

    url: str
    endpoint: Endpoint
    ca_pem: str
    proxy: Endpoint | None

    @property
    def site_host(self) -> str:
        """Host name or address of the site, as its certificate must name it."""
        return self.endpoint.host


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """The template that the ISO was made for; only shown, the site decides by the credential."""

    id: str
    name: str
    organization: str


@dataclass(frozen=True, slots=True)
class InterfaceConfig:
    """One interface: exactly one of ``mac``, ``name``, ``first_with_carrier`` chooses it."""

    mac: str | None
    name: str | None
    first_with_carrier: bool
    addresses: tuple[str, ...]
    gateway: str | None
    vlan: int | None


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """DHCP on everything (no interfaces), DHCP on named interfaces, or static addresses."""

    mode: str
    interfaces: tuple[InterfaceConfig, ...]
    dns: tuple[str, ...]
    mtu: int | None


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the ISO."""

    site: SiteConfig
    credential: str
    template: TemplateRef
    network: NetworkConfig
    serial_console: str | None
    poweroff_when_done: bool


class _Fields:
    """One JSON object: takes values by name and refuses what it does not know."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(where or "config", value, "an object")
        self._data = cast(Mapping[str, object], value)
        self._where = where
        self._taken: set[str] = set()

    def name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def take(self, key: str, default: object = None) -> object:
        self._taken.add(key)
        return self._data.get(key, default)

    def text(self, key: str, *, secret: bool = False) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not value:
            raise ConfigError(self.name(key), value, "text that is not empty", secret=secret)
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.take(key) is None else self.text(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise ConfigError(self.name(key), value, "true or false")
        return value

    def whole(self, key: str, low: int, high: int) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(self.name(key), value, f"a whole number from {low} to {high}, or null")
        return value

    def items(self, key: str, most: int) -> list[object]:
        value = self.take(key, [])
        if not isinstance(value, list) or len(value) > most:
            raise ConfigError(self.name(key), value, f"a list of at most {most} entries")
        return value

    def done(self) -> None:
        unknown = sorted(set(self._data) - self._taken)
        if unknown:
            raise ConfigError(self.name(unknown[0]), self._data[unknown[0]], f"one of {', '.join(sorted(self._taken))}")


def parse_endpoint(url: str, field: str, scheme: str, *, user_allowed: bool = False) -> Endpoint:
    """Split ``scheme://host:port`` and refuse anything more (paths, queries, users where not wanted)."""
    allowed = f"{scheme}://HOST:PORT"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(field, url, allowed) from None
    host = parts.hostname or ""
    with_user = parts.username is not None or parts.password is not None
    if (
        parts.scheme != scheme
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or (with_user and not user_allowed)
        or not (_HOST.match(host) or _is_address(host))
        or port == 0
    ):
        raise ConfigError(field, url, allowed, secret=with_user)
    user = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    return Endpoint(host, port or (443 if scheme == "https" else 3128), user, password)


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _site(value: object) -> SiteConfig:
    fields = _Fields(value, "site")
    url = fields.text("url")
    endpoint = parse_endpoint(url, "site.url", "https")
    ca_pem = fields.text("ca_pem")
    if "-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise ConfigError("site.ca_pem", ca_pem, "one or more PEM certificates")
    proxy_url = fields.optional_text("proxy")
    proxy = parse_endpoint(proxy_url, "site.proxy", "http", user_allowed=True) if proxy_url else None
    fields.done()
    return SiteConfig(url.rstrip("/"), endpoint, ca_pem, proxy)


def _template(value: object) -> TemplateRef:
    fields = _Fields(value, "template")
    template = TemplateRef(fields.text("id"), fields.text("name"), fields.text("organization"))
    fields.done()
    return template


def _interface(value: object, where: str, mode: str) -> InterfaceConfig:
    fields = _Fields(value, where)
    match = _Fields(fields.take("match"), f"{where}.match")
    mac, name = match.optional_text("mac"), match.optional_text("name")
    first = match.flag("first_with_carrier", False)
    match.done()
    if (mac is not None) + (name is not None) + first != 1:
        raise ConfigError(f"{where}.match", fields.take("match"), "exactly one of mac, name, first_with_carrier: true")
    if mac is not None:
        mac = mac.lower().replace("-", ":")
        if not _MAC.match(mac):
            raise ConfigError(f"{where}.match.mac", mac, "a MAC address such as 00:50:56:01:02:03")
    if name is not None and not _IFNAME.match(name):
        raise ConfigError(f"{where}.match.name", name, "an interface name of at most 15 characters")
    addresses: list[str] = []
    for number, item in enumerate(fields.items("addresses", 16)):
        try:
            if not isinstance(item, str) or "/" not in item:
                raise ValueError
            addresses.append(ipaddress.ip_interface(item).with_prefixlen)
        except ValueError:
            allowed = "an address with prefix length such as 192.0.2.10/24"
            raise ConfigError(f"{where}.addresses[{number}]", item, allowed) from None
    if mode == "static" and not addresses:
        raise ConfigError(f"{where}.addresses", [], "at least one address, because network.mode is static")
    if mode == "dhcp" and addresses:
        raise ConfigError(f"{where}.addresses", addresses, "empty, because network.mode is dhcp")
    gateway = fields.optional_text("gateway")
    if gateway is not None and not _is_address(gateway):
        raise ConfigError(f"{where}.gateway", gateway, "an IP address or null")
    vlan = fields.whole("vlan", 1, 4094)
    fields.done()
    return InterfaceConfig(mac, name, first, tuple(addresses), gateway, vlan)


def _network(value: object) -> NetworkConfig:
    fields = _Fields(value, "network")
    mode = fields.take("mode", "dhcp")
    if mode not in {"dhcp", "static"}:
        raise ConfigError("network.mode", mode, "dhcp or static")
    mode = str(mode)
    interfaces = tuple(
        _interface(item, f"network.interfaces[{number}]", mode)
        for number, item in enumerate(fields.items("interfaces", MAX_INTERFACES))
    )
    if mode == "static" and not interfaces:
        raise ConfigError("network.interfaces", [], "at least one interface, because network.mode is static")
    dns: list[str] = []
    for number, item in enumerate(fields.items("dns", 8)):
        if not isinstance(item, str) or not _is_address(item):
            raise ConfigError(f"network.dns[{number}]", item, "an IP address")
        dns.append(item)
    mtu = fields.whole("mtu", 576, 9216)
    fields.done()
    return NetworkConfig(mode, interfaces, tuple(dns), mtu)


def parse_config(data: bytes) -> Config:
    """Check the JSON document of the ISO's configuration slot. Raises :class:`ConfigError`."""
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError("config", str(error), "a JSON document") from None
    fields = _Fields(document, "")
    version = fields.take("format")
    if version != 1 or isinstance(version, bool):
        raise ConfigError("format", version, "1 (made by a newer release? then use the agent of that release)")
    credential = fields.text("credential", secret=True)
    if not _CREDENTIAL.match(credential):
        raise ConfigError("credential", None, "an ISO credential (cm1_iso_…)", secret=True)
    console = _Fields(fields.take("console", {}), "console")
    serial = console.take("serial", "ttyS0,115200")
    if serial is not None and not isinstance(serial, str):
        raise ConfigError("console.serial", serial, "text such as ttyS0,115200, or null")
    console.flag("shell", False)  # for the live system's own console, not for the agent
    console.done()
    config = Config(
        site=_site(fields.take("site")),
        credential=credential,
        template=_template(fields.take("template")),
        network=_network(fields.take("network", {})),
        serial_console=serial,
        poweroff_when_done=fields.flag("poweroff_when_done", False),
    )
    fields.done()
    return config


def load_config(path: Path) -> Config:
    """Read and check the file. Raises :class:`ConfigError`, also when it is absent (an ISO without a template)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError("config", f"{path}: {error.strerror}", "present: use an ISO made for a template") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError("config", f"{path}: too long", f"at most {MAX_CONFIG_BYTES} bytes")
    return parse_config(data)
