# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import signal
from pathlib import Path

from coldmig_wire.frames import CHUNK
from gateway.dataplane.front import Front, start_server_process, write_certificate
from gateway.staging.content import data_frame, raw_chunk

ID = "11111111-2222-4333-8444-555555555555"


def test_what_was_acknowledged_is_had_after_the_server_was_killed(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    acknowledged: list[int] = []
    for attempt in range(3):
        process, client = start_server_process(tmp_path, ID, 64 << 20)
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
    process, client = start_server_process(tmp_path, ID, 64 << 20)
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
