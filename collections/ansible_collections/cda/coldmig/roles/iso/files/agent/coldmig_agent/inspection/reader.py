# SPDX-License-Identifier: GPL-3.0-or-later
"""Has a file system read by a process in a jail, and believes nothing but the shape of its answer."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import coldmig_agent
from coldmig_agent.guest.facts import VolumeFacts
from coldmig_agent.inspection import commands, jail
from coldmig_agent.inspection.child import COMMAND, Answer, Request
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.records import RecordError, from_json, to_json
from coldmig_agent.text import clean

MAX_ANSWER = 1 << 20


def read(nodes: Sequence[Path], fstype: str, seconds: float, *, replay: bool) -> VolumeFacts:
    """Facts of the file system on ``nodes``. Raises InspectionError; OutOfTimeError after ``seconds``."""
    if seconds <= 0:
        raise OutOfTimeError("no time is left to look into it")
    jail.PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    package = Path(coldmig_agent.__file__).parent.parent  # a directory, or the zipapp itself
    search_path = os.pathsep.join([str(package), *(entry for entry in sys.path if entry and entry != str(package))])
    request = Request(tuple(str(node) for node in nodes), fstype, replay, seconds)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "coldmig_agent", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("COLDMIG_DEBUG") else subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search_path},
            start_new_session=True,
        )
    except OSError as error:
        raise InspectionError(f"no process to look into it: {error.strerror}") from error
    try:
        with suppress(BrokenPipeError), cast(BinaryIO, process.stdin) as pipe:
            pipe.write(to_json(request).encode())
        output = _bounded(cast(BinaryIO, process.stdout), time.monotonic() + seconds, seconds)
    finally:
        commands.end(process)
    try:
        answer = from_json(Answer, output)
    except RecordError as error:
        what = str(error) if output else "it ended without an answer"
        raise InspectionError(f"the process that looked into it failed: {what}") from None
    if answer.facts is None:
        raise InspectionError(clean(answer.problem, 200) or "it says nothing")
    return answer.facts


def _bounded(output: BinaryIO, deadline: float, seconds: float) -> bytes:
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise OutOfTimeError(f"looking into it took longer than {seconds:.0f} s")
            part = os.read(output.fileno(), 1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            if sum(map(len, parts)) > MAX_ANSWER:
                raise InspectionError("the process that looked into it said too much")
