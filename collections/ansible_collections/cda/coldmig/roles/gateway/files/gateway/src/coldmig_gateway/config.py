# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of one gateway, read from a TOML file.

The file is the only place where settings live, so that ``init``, ``serve`` and the others agree. ``init`` writes
it when it does not exist; a deployment writes it from its own template.
"""

from __future__ import annotations

import ipaddress
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from coldmig_gateway.errors import GatewayError

DEFAULT_CONFIG = Path("/etc/coldmig/gateway.toml")

_DNS_NAME = re.compile(
    r"(?=.{1,253}\Z)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
ORGANIZATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")  # also of templates
_URL = re.compile(r"https://(?P<host>[^/:\[\]@\s]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?")


class ConfigError(GatewayError):
    """The settings cannot be used; the text names the setting, its value and what is allowed."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError("must be an IP address, for example 0.0.0.0 or ::") from None
    return value


def is_ip_address(name: str) -> bool:
    """Whether a certificate name is an IP address (else it is a DNS name)."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_name(value: str) -> str:
    if is_ip_address(value):
        return str(ipaddress.ip_address(value))
    if not _DNS_NAME.fullmatch(value):
        raise ValueError("must be a DNS name or an IP address")
    return value.lower()


def _url(value: str) -> str:
    match = _URL.fullmatch(value)
    if not match or not 1 <= int(match["port"] or 443) <= 65535:
        raise ValueError("must be https://HOST or https://HOST:PORT, without a path")
    return value


def _database(value: str) -> str:
    try:
        backend = make_url(value).get_backend_name()
    except ArgumentError:
        raise ValueError("must be a SQLAlchemy URL, for example sqlite:////var/lib/coldmig/gateway.db") from None
    if backend not in ("sqlite", "postgresql"):
        raise ValueError("must be a database of kind sqlite or postgresql")
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseModel):
    """What a gateway needs to know about itself. Sizes in bytes, times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state_dir: AbsolutePath = Field(description="Everything the gateway keeps, unless another setting says otherwise")
    names: list[Annotated[str, AfterValidator(_host_name)]] = Field(
        min_length=1, max_length=64, description="DNS names and IP addresses of the certificate"
    )
    listen: Annotated[str, AfterValidator(_address)] = "0.0.0.0"  # noqa: S104 - a server listens; the role narrows it
    port: int = Field(default=443, ge=1, le=65535)
    url: Annotated[str, AfterValidator(_url)] | None = Field(default=None, description="Default: https://NAME:PORT")
    site_name: str = Field(default="Cold migration", min_length=1, max_length=100)
    staging_dir: AbsolutePath | None = Field(default=None, description="Default: STATE_DIR/staging")
    database_url: Annotated[str, AfterValidator(_database)] | None = Field(
        default=None, description="Default: SQLite in STATE_DIR/gateway.db"
    )
    certificate: AbsolutePath | None = Field(
        default=None, description="Default: STATE_DIR/pki/server.pem, made by init"
    )
    certificate_key: AbsolutePath | None = None
    ca_certificate: AbsolutePath | None = None
    poll_seconds: int = Field(
        default=5, ge=1, le=300, description="How often an agent asks for its state; more seldom when many wait"
    )
    staging_reserve_bytes: int | None = Field(
        default=None, ge=0, le=1 << 50, description="Default: 1 % of the file system, at least 256 MiB"
    )
    keep_ended_hours: int = Field(
        default=168, ge=1, le=87_600, description="How long the staged copy of an ended migration is kept"
    )
    silent_seconds: int = Field(
        default=120, ge=5, le=3600, description="An agent that was not heard of for so long is gone"
    )
    janitor_seconds: int = Field(default=30, ge=1, le=3600, description="How often the site is put in order")

    @property
    def public_url(self) -> str:
        """The address agents and modules use, for example ``https://site.example:443``."""
        if self.url:
            return self.url
        host = self.names[0]
        return f"https://[{host}]:{self.port}" if ":" in host else f"https://{host}:{self.port}"

    @property
    def staging(self) -> Path:
        """Where the copies are staged, one directory per migration."""
        return self.staging_dir or self.state_dir / "staging"

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database. May hold a password: never log it."""
        return self.database_url or f"sqlite:///{self.state_dir / 'gateway.db'}"

    @property
    def pki_dir(self) -> Path:
        """Where ``init`` keeps the site's CA and the certificate it issued."""
        return self.state_dir / "pki"

    @property
    def own_certificate(self) -> bool:
        """Whether the gateway issues its certificate itself (the default)."""
        return self.certificate is None

    @property
    def certificate_path(self) -> Path:
        """PEM chain the server shows."""
        return self.certificate or self.pki_dir / "server.pem"

    @property
    def certificate_key_path(self) -> Path:
        """PEM key of that certificate."""
        return self.certificate_key or self.pki_dir / "server.key"

    @property
    def ca_path(self) -> Path:
        """PEM of the CA that clients must trust."""
        return self.ca_certificate or self.pki_dir / "ca.pem"


def load(path: Path) -> Settings:
    """Read and check the settings.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or a setting is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; make it with 'coldmig-gateway --config {path} init --name …'"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return check(values, where=str(path))


def check(values: dict[str, object], where: str) -> Settings:
    """Settings from plain values; ``where`` says in messages where these come from."""
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # The database URL may hold a password, so its value is not repeated.
        shown = "" if first["type"] == "missing" or name == "database_url" else f" = {first['input']!r}"
        raise ConfigError(f"{where}: {name}{shown}: {first['msg'].removeprefix('Value error, ')}") from None
    given = [settings.certificate, settings.certificate_key, settings.ca_certificate]
    if any(given) and not all(given):
        raise ConfigError(
            f"{where}: certificate, certificate_key and ca_certificate must be set together or not at all"
        )
    return settings


def dump(settings: Settings) -> str:
    """The settings as TOML, only those that were set."""
    lines = ["# Settings of the cold-migration gateway."]
    for name, value in settings.model_dump(mode="json", exclude_unset=True, exclude_none=True).items():
        # JSON strings, numbers and lists of strings are valid TOML as they are.
        lines.append(f"{name} = {json.dumps(value, ensure_ascii=True)}")
    return "\n".join(lines) + "\n"
