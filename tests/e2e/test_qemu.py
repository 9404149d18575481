# SPDX-License-Identifier: GPL-3.0-or-later
"""The probes that decide how machines are run: they must tell a working accelerator from one that is not."""

from __future__ import annotations

import pytest

from e2e.qemu import TCG_CPU, TCG_SCALE, Accelerator, bios_boots, kvm_boots, uefi_boots

pytestmark = [pytest.mark.slow]


def test_the_bios_probe_sees_a_machine_that_boots() -> None:
    assert bios_boots(Accelerator.TCG, TCG_CPU, 20 * TCG_SCALE)


def test_the_uefi_probe_sees_a_machine_that_boots() -> None:
    assert uefi_boots(Accelerator.TCG, TCG_CPU, 20 * TCG_SCALE)


def test_the_probes_refuse_a_processor_that_qemu_cannot_run() -> None:
    assert not bios_boots(Accelerator.TCG, "no-such-cpu", 20)
    assert not uefi_boots(Accelerator.TCG, "no-such-cpu", 20)


def test_the_kvm_probe_ends_within_its_bound() -> None:
    assert kvm_boots(0.0) is False
