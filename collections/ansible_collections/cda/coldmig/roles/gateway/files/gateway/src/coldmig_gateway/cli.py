# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``coldmig-gateway``.

Exit codes: 0 done; 1 an error, told in one line on stderr; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import OperationalError, ProgrammingError

from coldmig_gateway import config, initialise
from coldmig_gateway.config import Settings
from coldmig_gateway.errors import GatewayError
from coldmig_gateway.store import activation, schema, tokens
from coldmig_gateway.store.database import Database
from coldmig_gateway.store.paging import PageRequest
from coldmig_gateway.version import VERSION

_ACTOR = "command line"


class UsageError(GatewayError):
    """The arguments do not fit; the text says what would."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    options = _parser().parse_args(arguments)
    os.umask(0o077)  # everything the gateway writes is its own
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except GatewayError as error:
        return _failed(str(error))
    except (OperationalError, ProgrammingError) as error:
        return _failed(f"the database does not work: {error.orig}")  # without the statement and its values
    except OSError as error:
        return _failed(str(error))


def _failed(message: str) -> int:
    print(f"coldmig-gateway: {message}", file=sys.stderr)  # noqa: T201
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coldmig-gateway", description="The gateway of a cold-migration site.")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(os.environ.get("COLDMIG_GATEWAY_CONFIG") or config.DEFAULT_CONFIG),
        metavar="FILE",
        help="settings (default: $COLDMIG_GATEWAY_CONFIG or %(default)s)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="set the site up: settings, CA, certificate, database, provider token")
    init.add_argument("--state-dir", metavar="DIR", help="where the gateway keeps everything")
    init.add_argument("--name", action="append", dest="names", metavar="DNS_OR_IP", help="for the certificate; repeat")
    init.add_argument("--listen", metavar="ADDRESS")
    init.add_argument("--port", type=int)
    init.add_argument("--url", help="address for agents, when it is not https://NAME:PORT")
    init.add_argument("--site-name")
    init.add_argument("--staging-dir", metavar="DIR")
    init.add_argument("--database-url", metavar="URL", help="without a password: arguments are seen by everybody")
    init.add_argument("--poll-seconds", type=int, metavar="SECONDS", help="how often agents ask for their state")
    init.add_argument("--staging-reserve-bytes", type=int, metavar="BYTES", help="what copies leave free in staging")
    init.add_argument("--keep-ended-hours", type=int, metavar="HOURS", help="how long ended copies stay in staging")
    init.add_argument(
        "--token-file", type=Path, metavar="FILE", help="write the provider token there (0600), not to stdout"
    )
    init.add_argument("--new-token", action="store_true", help="make a provider token although there is one")
    init.set_defaults(command=_init)

    commands.add_parser("serve", help="run the service in the foreground").set_defaults(command=_serve)
    control = commands.add_parser("control-plane")  # without help: started by 'serve' only
    control.add_argument("descriptor", type=int)
    control.set_defaults(command=_control_plane)

    token = commands.add_parser("token", help="tokens of the provider and of organizations")
    token_commands = token.add_subparsers(required=True, metavar="COMMAND")
    add = token_commands.add_parser("add", help="make a token and print it")
    add.add_argument("--organization", metavar="NAME", help="without it: a token of the provider")
    add.add_argument("--description", default="")
    add.set_defaults(command=_token_add)
    token_commands.add_parser("list", help="print all tokens, without their secrets").set_defaults(command=_token_list)
    revoke = token_commands.add_parser("revoke", help="make a token useless")
    revoke.add_argument("id")
    revoke.set_defaults(command=_token_revoke)

    activate = commands.add_parser("activate", help="let machines register")
    activate.add_argument("organizations", nargs="*", metavar="ORGANIZATION", help="default: those of the last time")
    activate.set_defaults(command=_activate, active=True)
    deactivate = commands.add_parser("deactivate", help="let no machine register")
    deactivate.set_defaults(command=_activate, active=False, organizations=[])

    verify = commands.add_parser("verify", help="read a staged copy again and check every chunk")
    verify.add_argument("migration", help="id of the migration")
    verify.set_defaults(command=_verify)

    commands.add_parser("openapi", help="print the OpenAPI document of the API").set_defaults(command=_openapi)
    commands.add_parser("version", help="print the version").set_defaults(command=_version)
    return parser


def _print(text: str) -> None:
    print(text)  # noqa: T201


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    try:
        schema.require_current(database)
        yield database
    finally:
        database.close()


def _init(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in Settings.model_fields if getattr(options, name, None) is not None}
    outcome = initialise.initialise(
        options.config.absolute(), given, token_file=options.token_file, new_token=options.new_token
    )
    for note in outcome.notes:
        print(note, file=sys.stderr)  # noqa: T201
    if outcome.token is not None:
        _print(outcome.token)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from coldmig_gateway import service  # noqa: PLC0415 - no other command needs the data plane

    settings = config.load(options.config)
    initialise.ensure_certificates(settings)
    database = Database(settings.database)
    try:
        schema.upgrade(database)
    finally:
        database.close()
    service.run(settings, options.config.absolute())
    return 0


def _control_plane(options: argparse.Namespace) -> int:
    from coldmig_gateway.control import server  # noqa: PLC0415 - the front's process needs nothing of it

    server.run(config.load(options.config), socket.socket(fileno=options.descriptor))
    return 0


def _token_add(options: argparse.Namespace) -> int:
    if options.organization is not None and not config.ORGANIZATION.fullmatch(options.organization):
        raise UsageError(f"organization {options.organization!r} does not match {config.ORGANIZATION.pattern}")
    if len(options.description) > 200:
        raise UsageError("the description may have 200 characters")
    with _opened(config.load(options.config)) as database, database.write() as session:
        secret = tokens.add(session, _ACTOR, options.organization, options.description)[1]
    _print(secret)
    return 0


def _token_list(options: argparse.Namespace) -> int:
    with _opened(config.load(options.config)) as database, database.read() as session:
        request: PageRequest | None = PageRequest(limit=500)
        while request is not None:
            page = tokens.listing(session, request)
            for row in page.items:
                state = "revoked" if row.revoked_at else "valid"
                owner = row.organization or "(provider)"
                _print(f"{row.id}  {state:7}  {owner:20}  {row.created_at:%Y-%m-%d}  {row.description}")
            request = PageRequest(page.next, 500) if page.next else None
    return 0


def _token_revoke(options: argparse.Namespace) -> int:
    with _opened(config.load(options.config)) as database, database.write() as session:
        tokens.revoke(session, _ACTOR, options.id)
    return 0


def _activate(options: argparse.Namespace) -> int:
    for name in options.organizations:
        if not config.ORGANIZATION.fullmatch(name):
            raise UsageError(f"organization {name!r} does not match {config.ORGANIZATION.pattern}")
    with _opened(config.load(options.config)) as database, database.write() as session:
        row = activation.put(session, _ACTOR, active=options.active, organizations=options.organizations or None)
        _print(f"{'active' if row.active else 'not active'}; organizations: {', '.join(row.organizations) or 'none'}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from coldmig_gateway import verification  # noqa: PLC0415 - no other command needs the staging code

    settings = config.load(options.config)
    with _opened(settings) as database:
        results = verification.verify(database, settings.staging, options.migration)
    for result in results:
        _print(str(result))
    return 0 if all(result.good for result in results) else 1


def _openapi(_options: argparse.Namespace) -> int:
    from coldmig_gateway.api.app import openapi_document  # noqa: PLC0415 - the front's process needs nothing of it

    _print(json.dumps(openapi_document(), indent=2))
    return 0


def _version(_options: argparse.Namespace) -> int:
    _print(VERSION)
    return 0
