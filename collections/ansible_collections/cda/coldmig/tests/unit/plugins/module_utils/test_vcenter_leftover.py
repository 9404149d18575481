# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dead run left in vCenter may go at any moment: its lease ends, and the host removes the VM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import FoundVm, Vcenter, VcenterError

vmodl = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed").vmodl


class Answering(Vcenter):
    """Has one answer to every question about a VM's properties."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def properties(self, *_args: Any, **_options: Any) -> Any:
        raise self.fault


LEFT = FoundVm(ref=SimpleNamespace(_moId="vm-7"), name="erp-db-01", complete=False)


def test_a_leftover_that_is_gone_when_it_is_looked_at_is_nothing() -> None:
    assert Answering(vmodl.fault.ManagedObjectNotFound()).describe_leftover(LEFT) == {}


def test_a_leftover_that_cannot_be_read_for_another_reason_is_an_error() -> None:
    with pytest.raises(VcenterError, match="reading VM erp-db-01"):
        Answering(vmodl.fault.SystemError()).describe_leftover(LEFT)
