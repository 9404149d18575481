# SPDX-License-Identifier: GPL-3.0-or-later
"""Bearer tokens: ``cm1_<kind>_<43 characters of base64url>``.

A token carries 256 bits of randomness, so a plain SHA-256 is a safe way to store it, and looking its digest up in a
unique index tells an attacker nothing about how much of a guess was right.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from enum import StrEnum


class TokenKind(StrEnum):
    """Who holds a token, as written into the token itself."""

    PROVIDER = "pro"
    ORGANIZATION = "org"
    ISO = "iso"
    SESSION = "ses"


_FORM = re.compile(r"cm1_(pro|org|iso|ses)_[A-Za-z0-9_-]{43}")


def new_token(kind: TokenKind) -> str:
    """A fresh token. It is shown to its owner once; only its digest is kept."""
    return f"cm1_{kind}_{secrets.token_urlsafe(32)}"


def kind_of(token: str) -> TokenKind | None:
    """The kind a well-formed token claims, or None when this is no token at all."""
    match = _FORM.fullmatch(token)
    return TokenKind(match[1]) if match else None


def token_digest(token: str) -> str:
    """SHA-256 of the token in hexadecimal: what the database keeps."""
    return hashlib.sha256(token.encode()).hexdigest()
