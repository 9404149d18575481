# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Which calls to vCenter are sent again, and when.

A call that only reads, or that says how something shall be, is repeated by itself when vCenter is busy or the answer
got lost. One that makes, moves or ends something is not: whoever makes it looks first at what became of it. A session
that expired is opened again, because a call that was refused for that was not done.

A vCenter that takes calls and does not answer is not waited for again and again: after a few such calls in a row, of
whatever kind, the last of them fails for good.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
import typing as t
from collections.abc import Callable
from http.client import HTTPException

from ansible_collections.cda.coldmig.plugins.module_utils._http import backoff

with contextlib.suppress(ImportError):  # Vcenter() reports what is missing
    from pyVmomi import SoapStubAdapter, vim, vmodl

ATTEMPTS = 6
"""How often a call is sent, about fifteen seconds in all."""

REPEATABLE = frozenset(
    {
        "RetrieveServiceContent",
        "CreateContainerView",
        "DestroyView",
        "RetrievePropertiesEx",
        "QueryEvents",
        "QueryConfigOptionEx",
        "HttpNfcLeaseSetManifestChecksumType",
        "HttpNfcLeaseGetManifest",
        "HttpNfcLeaseAbort",
        "ReconfigVM_Task",  # ours say how the VM shall be, not what to add
        "PbmRetrieveServiceContent",
        "PbmQueryProfile",
        "PbmRetrieveContent",
        "PbmCheckRequirements",
    }
)
SILENCES = 2
"""How many calls in a row may go unanswered, and how many of the same method since one of these was answered."""
BUSY = frozenset({"408", "429", "500", "502", "503", "504"})
_SESSION = frozenset({"RetrieveServiceContent", "Login", "Logout"})


class SilentError(TimeoutError):
    """vCenter has not answered for minutes. Nothing is gained by asking again at once."""


class Silence:
    """Counts calls without an answer."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self._of: dict[str, int] = {}

    def broken(self, method: str) -> None:
        """A call was answered."""
        self.in_a_row = self._of[method] = 0

    def went_on(self, method: str) -> str:
        """One was not. How often that was, when it is enough."""
        self.in_a_row += 1
        self._of[method] = self._of.get(method, 0) + 1
        if self.in_a_row >= SILENCES:
            return f"{self.in_a_row} calls in a row"
        return f"{self._of[method]} times" if self._of[method] >= SILENCES else ""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed in a moment."""
    if isinstance(error, SilentError):
        return False
    if isinstance(error, vmodl.MethodFault):
        return isinstance(
            error,
            vmodl.fault.SystemError
            | vmodl.fault.HostCommunication
            | vim.fault.HostConnectFault
            | vim.fault.TaskInProgress
            | vim.fault.Timedout
            | vim.fault.ConcurrentAccess,
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    if error.__class__ is HTTPException:  # a status instead of SOAP, in pyVmomi's words: "503 Service Unavailable"
        return str(error).partition(" ")[0] in BUSY
    return isinstance(error, OSError | HTTPException)


def is_unreached(error: BaseException) -> bool:
    """Whether nobody listens there: at the beginning of a session most often a wrong name or port."""
    return isinstance(error, ConnectionRefusedError | socket.gaierror)


def make_stub(
    *, relogin: Callable[[], None], sleep: Callable[[float], None] = time.sleep, **options: t.Any
) -> SoapStubAdapter:
    """pyVmomi's adapter with retries; *options* are its own. *relogin* opens the session again.

    What it raises because no answer came has in ``vcenter`` of whom. ``silence`` counts.
    """
    lock = threading.Lock()
    where = f"{options['host']}:{options.get('port', 443)}"
    patience = options.get("httpConnectionTimeout")

    class Stub(SoapStubAdapter):
        silence = Silence()

        def InvokeMethod(self, mo: t.Any, info: t.Any, args: t.Any, outerStub: t.Any = None) -> t.Any:  # noqa: N802,N803
            attempt = 1
            while True:
                cookie = self.cookie
                try:
                    answer = super().InvokeMethod(mo, info, args, outerStub)
                    self.silence.broken(info.wsdlName)
                    return answer
                except vim.fault.NotAuthenticated:
                    if info.wsdlName in _SESSION or attempt >= ATTEMPTS:
                        raise
                    with lock:
                        if self.cookie == cookie:  # nobody else has done it meanwhile
                            relogin()
                except (vmodl.MethodFault, OSError, HTTPException) as error:
                    if isinstance(error, vmodl.MethodFault):
                        self.silence.broken(info.wsdlName)
                    elif isinstance(error, TimeoutError) and (often := self.silence.went_on(info.wsdlName)):
                        seconds = "" if patience is None else f" within {patience:g} seconds"
                        silent = SilentError(f"no answer to {info.wsdlName}{seconds}, {often}")
                        silent.vcenter = where  # type: ignore[attr-defined]
                        raise silent from error
                    if not isinstance(error, vmodl.MethodFault):
                        error.vcenter = where  # type: ignore[union-attr]
                    again = info.wsdlName in REPEATABLE and is_transient(error) and not is_unreached(error)
                    if not again or attempt >= ATTEMPTS:
                        raise
                    sleep(backoff(attempt))
                attempt += 1

    return Stub(**options)
