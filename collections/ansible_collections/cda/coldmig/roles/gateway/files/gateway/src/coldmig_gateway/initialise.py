# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets a site up: directories, CA and certificate, database, first provider token. Doing it again changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from coldmig_gateway import pki
from coldmig_gateway.config import ConfigError, Settings, check, dump, load
from coldmig_gateway.files import write_private
from coldmig_gateway.store import schema, tokens
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.models import Token

_ACTOR = "coldmig-gateway init"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done (lines for people), and the provider token if one was made and not written to a file."""

    notes: list[str]
    token: str | None


def settings_for(path: Path, options: dict[str, object]) -> tuple[Settings, bool]:
    """The settings, from the file or, when there is none, from the options; and whether the file must be written.

    Raises:
        ConfigError: the file or an option is wrong, or an option contradicts the file.
    """
    if not path.exists():
        return check(options, where="init"), True
    settings = load(path)
    wanted = check({**settings.model_dump(exclude_unset=True), **options}, where="init")
    for name in options:
        there, given = getattr(settings, name), getattr(wanted, name)
        if there != given:
            raise ConfigError(f"{name} is {there!r} in {path}, not {given!r}; edit the file, then run init again")
    return settings, False


def initialise(path: Path, options: dict[str, object], *, token_file: Path | None, new_token: bool) -> Outcome:
    """Make what is missing.

    Raises:
        ConfigError: see ``settings_for``.
        SchemaError: the database belongs to a newer version.
        OSError: something cannot be written.
    """
    settings, is_new = settings_for(path, options)
    notes = []
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, dump(settings).encode())
    notes.append(_note(path, is_new))
    for directory in (settings.state_dir, settings.staging):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes += ensure_certificates(settings)
    database = Database(settings.database)
    try:
        notes.append("database: brought up to date" if schema.upgrade(database) else "database: exists already")
        token = _provider_token(database, token_file, new_token=new_token)
    finally:
        database.close()
    if token is None:
        notes.append("provider token: exists already; make another with --new-token")
    elif token_file is not None:
        notes.append(f"provider token: written to {token_file}")
        token = None
    return Outcome(notes, token)


def ensure_certificates(settings: Settings) -> list[str]:
    """Make or renew the gateway's own certificate, unless it was given one; says what was done."""
    if not settings.own_certificate:
        return [f"{settings.certificate_path}: used as it is"]
    settings.pki_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    new_ca = pki.ensure_ca(settings.pki_dir, settings.site_name)
    new_certificate = pki.ensure_server(settings.pki_dir, settings.names)
    return [_note(settings.ca_path, new_ca), _note(settings.certificate_path, new_certificate)]


def _provider_token(database: Database, token_file: Path | None, *, new_token: bool) -> str | None:
    with database.write() as session:
        there = session.scalar(select(func.count()).select_from(Token).where(Token.organization.is_(None)))
        if there and not new_token:
            return None
        secret = tokens.add(session, _ACTOR, None, "made by init")[1]
        if token_file is not None:
            # Inside of the transaction: a token that nobody ever saw must not stay in the database.
            write_private(token_file, secret.encode() + b"\n")
        return secret


def _note(path: Path, made: bool) -> str:
    return f"{path}: {'made' if made else 'exists already'}"
