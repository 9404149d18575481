# SPDX-License-Identifier: GPL-3.0-or-later
"""The ISO's settings: ``/run/coldmig/config.json``, written into the image when it was made for a template.

Every value is checked before anything starts; an error names the field, the value and what would be right. Secrets are
never part of an error or of a ``repr``. What counts on this machine, with its row of the fleet table and the kernel's
command line, comes from :mod:`coldmig_agent.settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

from coldmig_agent.fields import ConfigError, Fields, is_address, is_host, parse_bytes
from coldmig_agent.netsettings import InterfaceConfig, NetworkConfig, parse_mac, parse_network

__all__ = ["Config", "ConfigError", "Endpoint", "InterfaceConfig", "NetworkConfig", "SiteConfig", "load_config"]

FORMAT = 2
MAX_CONFIG_BYTES = 1 << 20
MAX_MACHINES = 10_000
MAX_BANNER = 2000
CONSOLE_MODES = ("auto", "plain", "screen")
#: What a row of the fleet table may set: whole sections key by key, or single values.
ROW_SECTIONS = ("network", "time", "access", "disks")
ROW_VALUES = ("proxy", "keyboard", "banner", "poweroff_when_done")
_CREDENTIAL = re.compile(r"^cm1_iso_[A-Za-z0-9_-]{43}$")
_HASH = re.compile(r"^\$(?:y|gy|7|6|5|2[abxy])\$[./A-Za-z0-9=,$]{8,250}$")
_SSH_KEY = re.compile(r"^(?:ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]{2,60} [A-Za-z0-9+/]{16,4000}={0,2}(?: [ -~]{0,200})?$")
_ZONE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_+-]{0,31}(?:/[A-Za-z0-9][A-Za-z0-9_+-]{0,31}){0,2}$")
_KEYMAP = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and port, with the user and password of a proxy where it wants them."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)


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
class ImageRef:
    """The image that runs: release of the agent, digest of the base's inputs, the medium's volume id."""

    version: str = ""
    build_id: str = ""
    volume_id: str = ""


@dataclass(frozen=True, slots=True)
class TimeConfig:
    """``ntp``: servers that the live system's clock is set by, once. ``zone``: None is UTC."""

    ntp: tuple[str, ...] = ()
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may log in. Without a hash and keys nobody may, and no SSH server runs."""

    root_password_hash: str | None = field(default=None, repr=False)
    ssh_keys: tuple[str, ...] = ()

    @property
    def ssh(self) -> bool:
        """Whether the SSH server runs."""
        return self.root_password_hash is not None or bool(self.ssh_keys)


@dataclass(frozen=True, slots=True)
class DiskRule:
    """Disks that are left out: all that is set here has to fit. ``path`` is a shell pattern; sizes are in bytes.

    ``size_bytes`` with ``exact`` False fits within one percent (``4TB`` as printed on the disk).
    """

    serial: str | None = None
    path: str | None = None
    label: str | None = None
    size_bytes: int | None = None
    exact: bool = True
    larger_than: int | None = None
    smaller_than: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class DisksConfig:
    """Which disks are not copied."""

    leave_out: tuple[DiskRule, ...] = ()


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A row of the fleet table: settings for the machine with this serial number, or with this MAC address."""

    serial: str | None
    mac: str | None
    document: Mapping[str, object] = field(repr=False)

    @property
    def key(self) -> str:
        """What the row is found by."""
        return self.serial if self.serial is not None else self.mac or ""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of the ISO. ``document`` is the JSON object that they came from."""

    site: SiteConfig
    credential: str = field(repr=False)
    template: TemplateRef
    network: NetworkConfig
    serial_console: str | None
    poweroff_when_done: bool
    shell: bool = False
    console_mode: str = "auto"
    time: TimeConfig = TimeConfig()
    keyboard: str | None = None
    access: AccessConfig = AccessConfig()
    banner: str | None = None
    disks: DisksConfig = DisksConfig()
    machines: tuple[MachineRow, ...] = ()
    image: ImageRef = ImageRef()
    document: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)


def parse_endpoint(url: str, name: str, scheme: str) -> Endpoint:
    """Split ``scheme://host:port`` and refuse anything more (paths, queries, users)."""
    allowed = f"{scheme}://HOST:PORT"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(name, url, allowed, secret="@" in url) from None
    host = unquote(parts.hostname or "")
    with_user = parts.username is not None or parts.password is not None
    if (
        parts.scheme != scheme
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
        or with_user
        or not (is_host(host) or is_address(host))
        or port == 0
    ):
        raise ConfigError(name, url, allowed, secret="@" in url)
    return Endpoint(host, port or (443 if scheme == "https" else 3128))


def _proxy(value: object, name: str) -> Endpoint | None:
    if value is None:
        return None
    fields = Fields({"url": value} if isinstance(value, str) else value, name)
    endpoint = parse_endpoint(fields.text("url"), f"{name}.url", "http")
    user = fields.optional_text("username")
    password = fields.optional_text("password", secret=True)
    fields.done()
    if user is None and password is not None:
        raise ConfigError(f"{name}.username", user, "text, because there is a password")
    # RFC 7617: the colon parts name and password; control characters would end the header.
    if user is not None and (":" in user or not user.isprintable()):
        raise ConfigError(f"{name}.username", user, "printable text without a colon")
    if password is not None and not password.isprintable():
        raise ConfigError(f"{name}.password", None, "printable text", secret=True)
    return Endpoint(endpoint.host, endpoint.port, user, password)


def _site(value: object) -> SiteConfig:
    fields = Fields(value, "site")
    url = fields.text("url")
    endpoint = parse_endpoint(url, "site.url", "https")
    ca_pem = fields.text("ca_pem")
    if "-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise ConfigError("site.ca_pem", ca_pem, "one or more PEM certificates")
    proxy = _proxy(fields.take("proxy"), "site.proxy")
    fields.done()
    return SiteConfig(url.rstrip("/"), endpoint, ca_pem, proxy)


def _template(value: object) -> TemplateRef:
    fields = Fields(value, "template")
    template = TemplateRef(fields.text("id"), fields.text("name"), fields.text("organization"))
    fields.done()
    return template


def _time(fields: Fields) -> TimeConfig:
    servers = fields.texts("ntp", 8)
    for name, text in servers:
        if not is_address(text) and not is_host(text):
            raise ConfigError(name, text, "a host name or address")
    zone = fields.optional_text("zone")
    if zone is not None and not _ZONE.match(zone):
        raise ConfigError(fields.name("zone"), zone, "a time zone such as Europe/Berlin")
    fields.done()
    return TimeConfig(tuple(text for _name, text in servers), zone)


def _access(fields: Fields) -> AccessConfig:
    hashed = fields.optional_text("root_password_hash", secret=True)
    if hashed is not None and not _HASH.match(hashed):
        allowed = "a hash of crypt(5) such as $6$… or $y$…, as mkpasswd makes it"
        raise ConfigError(fields.name("root_password_hash"), None, allowed, secret=True)
    keys = fields.texts("ssh_keys", 64)
    for name, text in keys:
        if not _SSH_KEY.match(text):
            raise ConfigError(name, text, "a public SSH key such as ssh-ed25519 AAAA… name")
    fields.done()
    return AccessConfig(hashed, tuple(text for _name, text in keys))


def parse_rule(value: object, where: str) -> DiskRule:
    """One rule of disks that are left out. Raises ConfigError."""
    fields = Fields(value, where)
    serial, path, label = fields.optional_text("serial"), fields.optional_text("path"), fields.optional_text("label")
    sizes: dict[str, int] = {}
    exact = True
    for key in ("size", "larger_than", "smaller_than"):
        if (size := fields.take(key)) is not None:
            sizes[key], precise = parse_bytes(size, fields.name(key))
            exact = precise if key == "size" else exact
    fields.done()
    said = {key: item for key, item in cast(Mapping[str, object], value).items() if item is not None}
    if not said:
        raise ConfigError(where, value, "at least one of serial, path, label, size, larger_than, smaller_than")
    if path is not None and not path.startswith("/dev/"):
        raise ConfigError(f"{where}.path", path, "a path below /dev/, * and ? stand for anything")
    text = ", ".join(f"{key.replace('_', ' ')} {item}" for key, item in said.items())
    larger, smaller = sizes.get("larger_than"), sizes.get("smaller_than")
    return DiskRule(serial, path, label, sizes.get("size"), exact, larger, smaller, text)


def _disks(fields: Fields) -> DisksConfig:
    rules = [
        parse_rule(item, f"{fields.name('leave_out')}[{number}]")
        for number, item in enumerate(fields.items("leave_out", 256))
    ]
    fields.done()
    return DisksConfig(tuple(rules))


def _rows(fields: Fields) -> tuple[MachineRow, ...]:
    rows = []
    for number, item in enumerate(fields.items("machines", MAX_MACHINES)):
        where = f"machines[{number}]"
        row = Fields(item, where)
        match = row.inner("match")
        serial, mac = match.optional_text("serial"), match.optional_text("mac")
        match.done()
        if (serial is None) == (mac is None):
            raise ConfigError(f"{where}.match", row.take("match"), "exactly one of serial, mac")
        for key in (*ROW_SECTIONS, *ROW_VALUES):
            row.take(key)
        row.done()
        document = {key: value for key, value in cast(dict[str, object], item).items() if key != "match"}
        rows.append(MachineRow(serial, parse_mac(mac, f"{where}.match.mac") if mac else None, document))
    return tuple(rows)


def parse_document(document: object) -> Config:
    """Check the settings' JSON object. Rows of the fleet table are checked when they are used. Raises ConfigError."""
    fields = Fields(document, "")
    version = fields.take("format")
    if version != FORMAT or isinstance(version, bool):
        allowed = f"{FORMAT} (made by another release? then use the base image of that release)"
        raise ConfigError("format", version, allowed)
    credential = fields.text("credential", secret=True)
    if not _CREDENTIAL.match(credential):
        raise ConfigError("credential", None, "an ISO credential (cm1_iso_…)", secret=True)
    console = fields.inner("console")
    serial = console.take("serial", "ttyS0,115200")
    if serial is not None and not isinstance(serial, str):
        raise ConfigError("console.serial", serial, "text such as ttyS0,115200, or null")
    shell = console.flag("shell", False)
    mode = console.choice("mode", CONSOLE_MODES, CONSOLE_MODES[0])
    console.done()
    keyboard = fields.optional_text("keyboard")
    if keyboard is not None and not _KEYMAP.match(keyboard):
        raise ConfigError("keyboard", keyboard, "a keymap such as de or fr-latin1")
    banner = fields.optional_text("banner")
    if banner is not None and len(banner) > MAX_BANNER:
        raise ConfigError("banner", banner, f"at most {MAX_BANNER} characters")
    config = Config(
        site=_site(fields.take("site")),
        credential=credential,
        template=_template(fields.take("template")),
        network=parse_network(fields.take("network")),
        serial_console=serial,
        poweroff_when_done=fields.flag("poweroff_when_done", False),
        shell=shell,
        console_mode=mode,
        time=_time(fields.inner("time")),
        keyboard=keyboard,
        access=_access(fields.inner("access")),
        banner=banner,
        disks=_disks(fields.inner("disks")),
        machines=_rows(fields),
        document=cast(Mapping[str, object], document),
    )
    fields.done()
    return config


def parse_config(data: bytes) -> Config:
    """Check the JSON document of the ISO's configuration slot. Raises :class:`ConfigError`."""
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError("config", str(error), "a JSON document") from None
    return parse_document(document)


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
