# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import ssl
from http.client import HTTPException, RemoteDisconnected
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _vcenter_calls as calls

pyvmomi = pytest.importorskip("pyVmomi", reason="pyvmomi is not installed")
vim, vmodl = pyvmomi.vim, pyvmomi.vmodl


class Stub:
    """A stub with retries over one that answers by what is listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls = self.logins = 0
        self.waits: list[float] = []

        def invoke(stub: Any, *_args: Any) -> Any:
            self.calls += 1
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(pyvmomi.SoapStubAdapter, "InvokeMethod", invoke)
        self.stub = calls.make_stub(
            relogin=self.login, sleep=self.waits.append, host="vc", version="vim.version.version12"
        )

    def login(self) -> None:
        self.logins += 1
        self.stub.cookie = f"session-{self.logins}"

    def __call__(self, method: str) -> Any:
        return self.stub.InvokeMethod(None, SimpleNamespace(wsdlName=method), [])


TROUBLE = [RemoteDisconnected("gone"), TimeoutError(), HTTPException("503 Busy"), vmodl.fault.SystemError()]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_reading_is_repeated(monkeypatch: pytest.MonkeyPatch, trouble: BaseException) -> None:
    stub = Stub(monkeypatch, trouble, "read", trouble, "read")
    assert [stub("RetrievePropertiesEx") for _call in range(2)] == ["read"] * 2
    assert len(stub.waits) == 2


@pytest.mark.parametrize("method", ["ImportVApp", "Destroy_Task", "PowerOnVM_Task", "HttpNfcLeaseComplete", "Login"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_makes_or_ends_something_is_not(
    monkeypatch: pytest.MonkeyPatch, method: str, trouble: BaseException
) -> None:
    stub = Stub(monkeypatch, trouble)
    with pytest.raises(type(trouble)):
        stub(method)


def test_attempts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, *[RemoteDisconnected("gone")] * 99)
    with pytest.raises(RemoteDisconnected):
        stub("RetrievePropertiesEx")
    assert stub.calls == calls.ATTEMPTS


def test_vcenter_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, *[TimeoutError()] * 99)
    with pytest.raises(calls.SilentError) as found:
        stub("RetrievePropertiesEx")
    assert stub.calls == calls.SILENCES
    assert str(found.value) == "no answer to RetrievePropertiesEx, 2 calls in a row"
    assert found.value.vcenter == "vc:443"  # type: ignore[attr-defined]
    assert not calls.is_transient(found.value)
    # whoever looks then what became of it does not wait as long again
    with pytest.raises(calls.SilentError, match="3 calls in a row"):
        stub("Logout")


def test_call_that_must_not_be_repeated_leaves_it_to_its_caller_to_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, TimeoutError(), "found", TimeoutError())
    with pytest.raises(TimeoutError) as failed:
        stub("ImportVApp")
    assert calls.is_transient(failed.value)
    assert stub("RetrievePropertiesEx") == "found"
    with pytest.raises(calls.SilentError, match="no answer to ImportVApp, 2 times"):
        stub("ImportVApp")


@pytest.mark.parametrize(
    "trouble",
    [ConnectionRefusedError(), ssl.SSLCertVerificationError(), vim.fault.NoPermission(), vmodl.fault.InvalidArgument()],
)
def test_what_will_not_pass_is_not_repeated(monkeypatch: pytest.MonkeyPatch, trouble: BaseException) -> None:
    stub = Stub(monkeypatch, trouble)
    with pytest.raises(type(trouble)):
        stub("RetrievePropertiesEx")


def test_session_is_opened_again_for_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, vim.fault.NotAuthenticated(), "lease")
    assert stub("ImportVApp") == "lease"
    assert stub.logins == 1


def test_opening_a_session_does_not_open_another(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch, vim.fault.NotAuthenticated())
    with pytest.raises(vim.fault.NotAuthenticated):
        stub("Logout")
    assert stub.logins == 0
