# SPDX-License-Identifier: GPL-3.0-or-later
"""What an encrypted volume means for the migration: which code, and whether it holds the copy back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from bitlocker_lab import CLEAR, PASSWORD, RECOVERY, SMART_CARD, STARTUP, TPM, TPM_PIN, volume
from luks_lab import reader

from coldmig_agent.encryption import Encryption, verdict
from coldmig_agent.encryption.bitlocker import BitLocker, read_bitlocker
from coldmig_agent.encryption.luks import Luks, Pin, Token

TPM2 = Pin("tpm", "clevis tpm2")
TANG = Pin("network", "clevis tang")
FIDO2 = Pin("device", "systemd-fido2")
PERSON = Pin("person", "systemd-recovery")
FDE = Pin("tpm", "ubuntu-fde")


def luks(slots: int, *tokens: tuple[Pin, int], label: str = "") -> Luks:
    return Luks(2, "uuid", label, frozenset(range(slots)), tuple(Token(pin, frozenset({slot})) for pin, slot in tokens))


def both(*pins: Pin) -> Pin:
    return Pin("some", "clevis sss", len(pins), pins)


@pytest.mark.parametrize(
    ("found", "code", "severity"),
    [
        (luks(1), "encrypted-luks", "warning"),
        (luks(0), "encrypted-luks", "warning"),
        (luks(2, (TPM2, 1)), "luks-tpm-token", "warning"),
        (luks(1, (TPM2, 0)), "luks-tpm-token", "block"),
        (luks(2, (TPM2, 0), (TPM2, 1)), "luks-tpm-token", "block"),
        (luks(2, (TPM2, 0), (PERSON, 1)), "luks-tpm-token", "warning"),
        (luks(2, (TPM2, 0), (TANG, 1)), "luks-tpm-token", "warning"),
        (luks(1, (both(TPM2, TANG), 0)), "luks-tpm-token", "block"),
        (luks(2, (TANG, 1)), "luks-network-token", "warning"),
        (luks(1, (TANG, 0)), "luks-network-token", "warning"),
        (luks(2, (FIDO2, 1)), "luks-device-token", "warning"),
        (luks(1, (FIDO2, 0)), "luks-device-token", "block"),
        (luks(1, (Pin("other", "custom"), 0)), "encrypted-luks", "warning"),
        (luks(1, (FDE, 0)), "tpm-sealed", "block"),
        (luks(2, (FDE, 0)), "luks-tpm-token", "warning"),
        (luks(1, label="ubuntu-data-enc"), "tpm-sealed", "block"),
        (luks(2, label="ubuntu-data-enc"), "encrypted-luks", "warning"),
        (Luks(2, problem="a wrong checksum"), "luks-unreadable", "warning"),
        (BitLocker((TPM,)), "bitlocker-tpm-only", "block"),
        (BitLocker((TPM_PIN,)), "bitlocker-tpm-only", "block"),
        (BitLocker((TPM, RECOVERY)), "bitlocker-recovery-key", "warning"),
        (BitLocker((TPM, PASSWORD)), "bitlocker-recovery-key", "warning"),
        (BitLocker((TPM, STARTUP)), "bitlocker-recovery-key", "warning"),
        (BitLocker((RECOVERY, SMART_CARD)), "bitlocker-recovery-key", "warning"),
        (BitLocker((TPM, CLEAR)), "bitlocker-clear-key", "info"),
        (BitLocker((CLEAR,)), "bitlocker-clear-key", "info"),
        (BitLocker(problem="damaged"), "bitlocker-unreadable", "warning"),
    ],
)
def test_every_way_to_a_key_has_its_verdict(found: Encryption, code: str, severity: str) -> None:
    made = verdict.judge("disk 0, partition 3", found)
    assert (made.code, made.severity) == (code, severity)
    assert "disk 0, partition 3" in made.message


def test_the_sentence_says_what_is_left() -> None:
    one = verdict.judge("x", luks(3, (TPM2, 1))).message
    assert "key slots 0, 2 can be opened otherwise, most likely with a passphrase" in one
    assert "could never be opened" in verdict.judge("x", luks(1, (TPM2, 0))).message
    assert "by clevis tang only" in verdict.judge("x", luks(2, (TPM2, 0), (TANG, 1))).message
    assert "48-digit recovery key" in verdict.judge("x", BitLocker((TPM, RECOVERY))).message


def test_the_computers_name_comes_from_a_fixed_volume_and_not_from_a_stick() -> None:
    stick = read_bitlocker(reader(volume([PASSWORD], "OTHER-PC E: 1/1/2026", to_go=True)))
    fixed = read_bitlocker(reader(volume([TPM, RECOVERY], "WIN-SRV1 C: 1/1/2026")))
    assert stick.to_go
    assert verdict.computer_name([luks(1), stick, BitLocker((TPM,)), fixed]) == "WIN-SRV1"
    assert verdict.computer_name([stick]) is None
