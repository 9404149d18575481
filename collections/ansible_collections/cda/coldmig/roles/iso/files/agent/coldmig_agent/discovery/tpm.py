# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM in the source: what is sealed in it stays behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.encryption import Encryption
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Notice, Tpm
from coldmig_agent.warnings import notice

_VERSIONS = {"1": "1.2", "2": "2.0"}


def read(sys: Path) -> Tpm | None:
    """The machine's TPM; None where the kernel sees none."""
    place = sys / "class/tpm/tpm0"
    if not place.exists():
        return None
    return Tpm(_VERSIONS.get(read_text(place / "tpm_version_major") or "", ""))


def notices(tpm: Tpm | None, encrypted: Sequence[Encryption]) -> list[Notice]:
    """A notice where there is a TPM; a stronger one where encrypted volumes may depend on it and do not tell."""
    if tpm is None:
        return []
    version = tpm.version or "of an unknown version"
    unknown = any(item.problem for item in encrypted)
    return [notice("tpm-encrypted" if unknown else "tpm-present", version=version)]
