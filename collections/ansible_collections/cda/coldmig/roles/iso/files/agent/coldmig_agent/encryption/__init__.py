# SPDX-License-Identifier: GPL-3.0-or-later
"""What opens an encrypted volume, read from its header in clear: no key is needed, nothing is opened."""

from __future__ import annotations

from coldmig_agent.discovery.tables import ReadAt
from coldmig_agent.encryption.bitlocker import BitLocker, read_bitlocker
from coldmig_agent.encryption.luks import Luks, read_luks

Encryption = BitLocker | Luks


def read(read_at: ReadAt, fstype: str) -> Encryption | None:
    """The protectors of a volume of type ``crypto_LUKS`` or ``BitLocker``; None for any other. Never raises.

    ``read_at`` gives bytes of the volume. What is wrong with the header stands in ``problem``.
    """
    if fstype == "crypto_LUKS":
        return read_luks(read_at)
    if fstype == "BitLocker":
        return read_bitlocker(read_at)
    return None
