# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a file system read by a process in a jail, and believes nothing but the shape of its answer."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import coldmig_agent
from coldmig_agent.guest.facts import VolumeFacts
from coldmig_agent.inspection import CHILD_COMMAND, commands, jail
from coldmig_agent.inspection.child import Answer, Request
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.records import RecordError, from_json, to_json
from coldmig_agent.text import clean

MAX_ANSWER = 1 << 20


class Reader:
    """Reads file systems through the server of :mod:`coldmig_agent.inspection.child`. Use it in a ``with`` block."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def read(self, nodes: Sequence[Path], fstype: str, seconds: float, *, replay: bool) -> VolumeFacts:
        """Facts of the file system on ``nodes``. Raises InspectionError; OutOfTimeError after ``seconds``."""
        if seconds <= 0:
            raise OutOfTimeError("no time is left to look into it")
        request = Request(tuple(str(node) for node in nodes), fstype, replay, seconds)
        deadline = time.monotonic() + seconds
        try:
            output = self._ask(request, deadline)
        except (InspectionError, OSError) as error:
            # Whatever is still going on there goes, with the server.
            self._end()
            if isinstance(error, InspectionError):
                raise
            raise InspectionError(f"the process that looks into it cannot be reached: {error.strerror}") from error
        try:
            answer = from_json(Answer, output)
        except RecordError as error:
            what = str(error) if output else "it ended without an answer"
            raise InspectionError(f"the process that looked into it failed: {what}") from None
        if answer.facts is None:
            raise InspectionError(clean(answer.problem, 200) or "it says nothing")
        return answer.facts

    def _ask(self, request: Request, deadline: float) -> bytes:
        answer, theirs = os.pipe()
        try:
            try:
                socket.send_fds(self._connected(), [to_json(request).encode()], [theirs])
            finally:
                os.close(theirs)
            return _bounded(answer, deadline, request.seconds)
        finally:
            os.close(answer)

    def _connected(self) -> socket.socket:
        if self._server is not None and self._server.poll() is not None:
            self._end()
        if self._requests is None:
            self._start()
        return cast(socket.socket, self._requests)

    def _start(self) -> None:
        jail.PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
        package = Path(coldmig_agent.__file__).parent.parent  # a directory, or the zipapp itself
        search_path = os.pathsep.join([str(package), *(entry for entry in sys.path if entry and entry != str(package))])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._requests = ours
            self._server = subprocess.Popen(
                # -P: the service's working directory, which is /, must not be among what the jail shows.
                [sys.executable, "-P", "-m", "coldmig_agent", CHILD_COMMAND],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("COLDMIG_DEBUG") else subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": search_path},
                start_new_session=True,
            )

    def _end(self) -> None:
        if self._server is not None:
            commands.end(self._server)
        if self._requests is not None:
            self._requests.close()
        self._server = self._requests = None


def _bounded(pipe: int, deadline: float, seconds: float) -> bytes:
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise OutOfTimeError(f"looking into it took longer than {seconds:.0f} s")
            part = os.read(pipe, 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            if sum(map(len, parts)) > MAX_ANSWER:
                raise InspectionError("the process that looked into it said too much")
