# SPDX-License-Identifier: GPL-3.0-or-later
"""A TPM in the source: what is sealed in it stays behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coldmig_agent.discovery.disks import Source
from coldmig_agent.interfaces import read_text
from coldmig_agent.machine import Notice


def notices(sys: Path, sources: Sequence[Source]) -> list[Notice]:
    """A notice where there is a TPM, a stronger one where encrypted volumes may depend on it."""
    tpm = sys / "class/tpm/tpm0"
    if not tpm.exists():
        return []
    version = read_text(tpm / "tpm_version_major") or "?"
    encrypted = any(v.content.fstype in {"crypto_LUKS", "BitLocker"} for source in sources for v in source.volumes)
    if encrypted:
        message = (
            f"this machine has a TPM {version} and encrypted volumes: a key sealed in the TPM will not be there at the "
            "destination. Have the recovery key or passphrase before you go on"
        )
        return [Notice("tpm-encrypted", message)]
    message = f"this machine has a TPM {version}: keys sealed in it will not be there at the destination"
    return [Notice("tpm-present", message)]
