# SPDX-License-Identifier: GPL-3.0-or-later
"""Many real agents, each a process of its own, from one interpreter that has read its modules once.

usage: python fleet.py JOBS.json   (a list of {"directory", "config", "images"}); ends when the last agent has ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from coldmig_agent import cli


def use_address(number: int) -> None:
    """Every machine has an address of its own, and the site limits what one address may have open."""
    address = f"127.1.{number // 250}.{number % 250 + 1}"
    connect = socket.create_connection

    def from_there(target: tuple[str, int], timeout: float | None = None, _source: object = None) -> socket.socket:
        return connect(target, timeout, (address, 0))

    socket.create_connection = from_there  # type: ignore[assignment]


def boot(job: dict[str, Any]) -> int:
    """One agent, with its output in its own directory. Its exit status."""
    directory = Path(job["directory"])
    log = os.open(directory / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    console = directory / "console.txt"
    console.touch()
    words = ["--config", job["config"], "--console", str(console), "--once"]
    for image in job["images"]:
        words += ["--source", image]
    return cli.main(words)


def main() -> int:
    """Starts all, says the process ids, and waits."""
    jobs = json.loads(Path(sys.argv[1]).read_text())
    pids: list[int] = []
    for number, job in enumerate(jobs):
        pid = os.fork()
        if pid == 0:
            try:
                use_address(number)
                status = boot(job)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                status = 70
            os._exit(status)
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    # Whoever started us lets go of our input when it ends, whatever ends it.
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in pids)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
