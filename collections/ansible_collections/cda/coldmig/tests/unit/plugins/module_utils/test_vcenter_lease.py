# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from http.client import RemoteDisconnected
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_lease as lease
from ansible_collections.cda.coldmig.plugins.module_utils._errors import HttpError, Problem, TransportError
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import VcenterError

pyvmomi = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed")
vim, vmodl = pyvmomi.vim, pyvmomi.vmodl


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits here."""
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: None)


class Lease:
    """Answers Complete by what is listed; then it is in the state that is given, or gone."""

    def __init__(self, *answers: BaseException | None, state: Any = None) -> None:
        self.answers = list(answers)
        self.state = state

    def HttpNfcLeaseComplete(self) -> None:  # noqa: N802
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer

    def properties(self, obj: Any, paths: list[str]) -> dict[str, Any]:
        if obj is self and self.state is None:
            raise vmodl.fault.ManagedObjectNotFound()
        return {"state": self.state, "name": "vm"}


LOST = RemoteDisconnected("no answer")


def complete(made: Lease) -> None:
    lease.complete(made, made, "entity", "erp")  # type: ignore[arg-type]


def test_lost_answer_of_complete_is_looked_up() -> None:
    complete(Lease(LOST, state=vim.HttpNfcLease.State.done))
    complete(Lease(LOST, state=None))  # a lease that is done may be gone, with its VM still there
    complete(Lease(LOST, None, state=vim.HttpNfcLease.State.ready))


def test_complete_of_a_lease_that_ended_badly_fails() -> None:
    with pytest.raises(VcenterError, match="completing the import of VM erp"):
        complete(Lease(LOST, state=vim.HttpNfcLease.State.error))
    with pytest.raises(VcenterError):
        complete(Lease(vim.fault.InvalidState(), state=vim.HttpNfcLease.State.ready))


def test_digest_is_taken_from_the_manifest_only_if_it_is_of_the_same_kind() -> None:
    both = SimpleNamespace(sha1="aa", checksum="bb", checksumType="SHA256")
    old = SimpleNamespace(sha1="aa", checksum=None, checksumType=None)
    assert lease.received_digest(both, "sha256") == "bb"
    assert lease.received_digest(both, "sha1") == "aa"
    assert lease.received_digest(old, "sha256") is None
    assert lease.received_digest(None, "sha1") is None


def refused(status: int) -> HttpError:
    return HttpError(method="GET", url="https://gw/image.vmdk", status=status, problem=Problem(status=status))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (VcenterError("busy", transient=True), True),
        (VcenterError("no right"), False),
        (TransportError("broken", method="GET", url="https://gw/", sent=True), True),
        (refused(503), True),
        (refused(410), False),
    ],
)
def test_only_what_may_pass_is_imported_again(error: Any, *, expected: bool) -> None:
    assert lease.may_pass(error) is expected


class Pool:
    """Answers ImportVApp by what is listed."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def ImportVApp(self, *_args: Any) -> Any:  # noqa: N802
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Vms:
    """A vCenter with perhaps a VM of the migration; notes what is removed."""

    def __init__(self, *found: str | None) -> None:
        self.found = list(found)
        self.removed: list[str] = []

    def find_vm(self, migration_id: str) -> str | None:
        assert migration_id == "id-1"
        return self.found.pop(0)

    def remove_vm(self, vm: str, *, timeout: float) -> None:
        assert timeout == 9
        self.removed.append(vm)


def opened(vms: Vms, pool: Pool) -> Any:
    place: Any = SimpleNamespace(pool=pool, folder=None)
    return lease.open_lease(vms, place, vim.vm.ConfigSpec(name="erp"), "id-1", timeout=9)  # type: ignore[arg-type]


def test_vm_of_an_import_whose_answer_got_lost_goes_before_the_next() -> None:
    vms = Vms("vm-1")
    assert opened(vms, Pool(LOST, "lease")) == "lease"
    assert vms.removed == ["vm-1"]


def test_vm_that_appears_late_is_met_by_its_name() -> None:
    vms = Vms(None, "vm-1")
    assert opened(vms, Pool(LOST, vim.fault.DuplicateName(), "lease")) == "lease"
    assert vms.removed == ["vm-1"]


def test_name_that_another_vm_has_is_an_error() -> None:
    with pytest.raises(VcenterError, match="DuplicateName"):
        opened(Vms(), Pool(vim.fault.DuplicateName()))
    with pytest.raises(VcenterError, match="DuplicateName"):
        opened(Vms(None, None), Pool(LOST, vim.fault.DuplicateName()))
