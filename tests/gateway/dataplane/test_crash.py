# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from coldmig_wire.frames import CHUNK
from gateway.dataplane.front import Client, Front, write_certificate
from gateway.dataplane.memory_site import MemorySite
from gateway.staging.content import data_frame, raw_chunk

ID = "11111111-2222-4333-8444-555555555555"

SERVER = """
import asyncio, sys
from pathlib import Path
from gateway.dataplane.front import disk_plans
from gateway.dataplane.memory_site import MemoryMigration, MemorySite
from coldmig_gateway.dataplane.server import serve
from coldmig_gateway.dataplane.settings import FrontSettings
directory = Path(sys.argv[1])
site = MemorySite(directory / "staging")
site.migrations[sys.argv[2]] = MemoryMigration(disk_plans(64 << 20))
settings = FrontSettings("127.0.0.1", 0, directory / "server.pem", directory / "server.key", directory / "control")
asyncio.run(serve(settings, site, ready=lambda port: print(port, flush=True)))
"""


def start(directory: Path) -> tuple[subprocess.Popen[str], Client]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory), ID], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    return process, Client(port, directory / "server.pem", MemorySite.token(ID))


def test_what_was_acknowledged_is_had_after_the_server_was_killed(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    acknowledged: list[int] = []
    for attempt in range(3):
        process, client = start(tmp_path)
        try:
            assert set(acknowledged) <= set(client.have())
            chunks = range(attempt * 6, attempt * 6 + 6)
            assert client.send([data_frame(chunk, raw_chunk(chunk)) for chunk in chunks]).json["durable"] == 6
            acknowledged += chunks
            # A body is on its way when the process dies.
            with client.open_socket() as connection:
                frame, payload = data_frame(60, raw_chunk(60))
                connection.sendall(client.frames_head(10 * CHUNK) + frame.pack() + payload[: CHUNK // 2])
                process.send_signal(signal.SIGKILL)
                process.wait()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    process, client = start(tmp_path)
    try:
        assert client.have() == acknowledged
        assert client.send([data_frame(60, raw_chunk(60))]).json["durable"] == 1
    finally:
        process.kill()
        process.wait()


def test_a_server_that_is_stopped_in_order_has_everything_after_its_restart(front: Front) -> None:
    front.migration(ID, 64 << 20)
    front.session(ID).send([data_frame(chunk, raw_chunk(chunk)) for chunk in range(5)])
    front.stop()
    front.start()
    assert front.session(ID).have() == [0, 1, 2, 3, 4]
