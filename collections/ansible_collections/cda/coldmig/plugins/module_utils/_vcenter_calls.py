# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Which calls to vCenter are sent again, and when.

A call that only reads, or that says how something shall be, is repeated by itself when vCenter is busy or the answer
got lost. One that makes, moves or ends something is not: whoever makes it looks first at what became of it. A session
that expired is opened again, because a call that was refused for that was not done.
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
BUSY = frozenset({"408", "429", "500", "502", "503", "504"})
_SESSION = frozenset({"RetrieveServiceContent", "Login", "Logout"})


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed in a moment."""
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
    """pyVmomi's adapter with retries; *options* are its own. *relogin* opens the session again."""
    lock = threading.Lock()

    class Stub(SoapStubAdapter):
        def InvokeMethod(self, mo: t.Any, info: t.Any, args: t.Any, outerStub: t.Any = None) -> t.Any:  # noqa: N802,N803
            attempt = 1
            while True:
                cookie = self.cookie
                try:
                    return super().InvokeMethod(mo, info, args, outerStub)
                except vim.fault.NotAuthenticated:
                    if info.wsdlName in _SESSION or attempt >= ATTEMPTS:
                        raise
                    with lock:
                        if self.cookie == cookie:  # nobody else has done it meanwhile
                            relogin()
                except (vmodl.MethodFault, OSError, HTTPException) as error:
                    again = info.wsdlName in REPEATABLE and is_transient(error) and not is_unreached(error)
                    if not again or attempt >= ATTEMPTS:
                        raise
                    sleep(backoff(attempt))
                attempt += 1

    return Stub(**options)
