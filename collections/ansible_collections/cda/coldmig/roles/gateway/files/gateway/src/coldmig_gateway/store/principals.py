# SPDX-License-Identifier: GPL-3.0-or-later
"""From a bearer token to the one who holds it."""

from __future__ import annotations

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from coldmig_gateway.clock import now
from coldmig_gateway.principal import Principal, Role
from coldmig_gateway.store.errors import CredentialError
from coldmig_gateway.store.models import IsoCredential, Migration, Token
from coldmig_gateway.tokens import TokenKind, kind_of, token_digest

_SESSION = select(Migration.id, Migration.organization).where(Migration.session_digest == bindparam("digest"))
SESSION_UNKNOWN = ("session-unknown", "This site does not know this session (any more); boot the ISO again.")


def authenticate(session: Session, token: str) -> Principal:
    """Who holds this token.

    Raises:
        CredentialError: nobody, or not any more.
    """
    kind = kind_of(token)
    digest = token_digest(token)
    match kind:
        case TokenKind.PROVIDER | TokenKind.ORGANIZATION:
            return _of_token(session, kind, digest)
        case TokenKind.ISO:
            return _of_iso(session, digest)
        case TokenKind.SESSION:
            return _of_session(session, digest)
        case None:
            raise CredentialError("token-unknown", "This is not a token of a cold-migration site.")


def _of_token(session: Session, kind: TokenKind, digest: str) -> Principal:
    token = session.scalar(select(Token).where(Token.digest == digest))
    role = Role.PROVIDER if kind is TokenKind.PROVIDER else Role.ORGANIZATION
    if token is None or (token.organization is None) != (role is Role.PROVIDER):
        raise CredentialError("token-unknown", "This site does not know this token.")
    if token.revoked_at is not None:
        raise CredentialError("token-revoked", "This token was revoked; ask the provider for a new one.")
    return Principal(role, token.id, token.organization)


def _of_iso(session: Session, digest: str) -> Principal:
    credential = session.scalar(select(IsoCredential).where(IsoCredential.digest == digest))
    if credential is None:
        raise CredentialError(
            "credential-unknown", "This site does not know the credential of this ISO; make a new ISO from a template."
        )
    if credential.revoked_at is not None:
        raise CredentialError("credential-revoked", "The credential of this ISO was revoked; make a new ISO.")
    if credential.expires_at <= now():
        expired = credential.expires_at.strftime("%Y-%m-%d %H:%M:%S UTC")
        raise CredentialError("credential-expired", f"The credential of this ISO expired at {expired}; make a new ISO.")
    return Principal(Role.ISO, credential.id, credential.template.organization)


def _of_session(session: Session, digest: str) -> Principal:
    # The row is large and comes with its disks; who it is needs two columns.
    found = session.execute(_SESSION, {"digest": digest}).one_or_none()
    if found is None:
        raise CredentialError(*SESSION_UNKNOWN)
    return Principal(Role.SESSION, found.id, found.organization)
