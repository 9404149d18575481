# SPDX-License-Identifier: GPL-3.0-or-later
"""What an encrypted volume means for the new machine: which key will not be there, and whether another one is."""

from __future__ import annotations

from collections.abc import Sequence

from coldmig_agent.encryption import Encryption
from coldmig_agent.encryption.bitlocker import BitLocker
from coldmig_agent.encryption.luks import Luks
from coldmig_agent.machine import Notice
from coldmig_agent.warnings import BLOCK, notice

_TPM = frozenset({"tpm"})
_DEVICE = frozenset({"tpm", "device"})
#: Labels of the volumes that snapd encrypts with keys in the TPM, from before it left tokens in the header.
_SNAPD_LABELS = frozenset({"ubuntu-data-enc", "ubuntu-save-enc"})


def _bitlocker(place: str, found: BitLocker) -> Notice:
    if found.problem:
        return notice("bitlocker-unreadable", place=place, reason=found.problem)
    if found.has_clear_key:
        return notice("bitlocker-clear-key", place=place)
    if found.spare_key is None and found.needs_tpm:
        return notice("bitlocker-tpm-only", place=place, protectors=found.names)
    key = found.spare_key or "its key"
    return notice("bitlocker-recovery-key", place=place, protectors=found.names, key=key)


def _numbers(slots: frozenset[int]) -> str:
    return f"key slot{'s' * (len(slots) != 1)} {', '.join(map(str, sorted(slots)))}"


def _other(found: Luks, kinds: frozenset[str]) -> str:
    if found.free_slots:
        return f"{_numbers(found.free_slots)} can be opened otherwise, most likely with a passphrase"
    if found.opens_without(kinds):
        rest = [token.pin.name for token in found.tokens if token.pin.works_without(kinds)]
        return f"beside that it can be opened by {', '.join(dict.fromkeys(rest))} only, not by a passphrase"
    return "no key slot is left for a passphrase: the copy could never be opened"


def _sealed(found: Luks) -> str | None:
    """How a key is sealed by a distribution's own disk encryption with no other way in; None for anything else."""
    names = found.token_names("tpm")
    if names.startswith("ubuntu-fde"):
        return None if found.opens_without(_TPM) else names
    alone = not found.tokens and found.label in _SNAPD_LABELS and len(found.slots) == 1
    return "Ubuntu's full disk encryption" if alone else None


def _token_notice(place: str, found: Luks) -> Notice | None:
    """For volumes that are opened by something else than a person."""
    for code, kind, away in (("luks-tpm-token", "tpm", _TPM), ("luks-device-token", "device", _DEVICE)):
        if names := found.token_names(kind):
            severity = None if found.opens_without(away) else BLOCK
            return notice(code, severity, place=place, token=names, other=_other(found, away))
    if names := found.token_names("network"):
        return notice("luks-network-token", place=place, token=names)
    return None


def _luks(place: str, found: Luks) -> Notice:
    if found.problem:
        return notice("luks-unreadable", place=place, reason=found.problem)
    if how := _sealed(found):
        return notice("tpm-sealed", place=place, how=how)
    slots = _numbers(found.slots) if found.slots else "no key slot"
    plain = notice("encrypted-luks", place=place, how=f"LUKS{found.version}, {slots}")
    return _token_notice(place, found) or plain


def judge(place: str, found: Encryption) -> Notice:
    """One notice for one volume; the gravest that applies."""
    return _bitlocker(place, found) if isinstance(found, BitLocker) else _luks(place, found)


def computer_name(found: Sequence[Encryption]) -> str | None:
    """The computer's name in the first BitLocker volume that tells one; sticks come from other computers."""
    own = [item for item in found if isinstance(item, BitLocker) and not item.to_go]
    return next((item.computer for item in own if item.computer), None)
