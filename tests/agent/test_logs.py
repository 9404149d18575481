# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import base64
import gzip
import json
import logging
import os
import random
from pathlib import Path

import pytest
from agent_lab import Authority

from coldmig_agent import logs
from coldmig_agent.config import parse_config
from coldmig_agent.logs import LogKeeper, MemoryWatch, Scrubber, kernel_lines, pack, secrets_of
from support.agent import iso_settings

CREDENTIAL = "cm1_iso_" + "k" * 43
SESSION = "cm1_ses_" + "S" * 43


def test_everything_secret_of_an_iso_is_taken_out_of_its_logs() -> None:
    settings = iso_settings("https://site.example", Authority.create().pem, CREDENTIAL)
    settings["site"]["proxy"] = {"url": "http://proxy.example:3128", "username": "anna", "password": "p@ss"}
    scrub = Scrubber(secrets_of(parse_config(json.dumps(settings).encode())))
    pair = base64.b64encode(b"anna:p@ss").decode()
    text = scrub(f"a {CREDENTIAL} b p@ss c p%40ss d Basic {pair} e http://anna:p%40ss@proxy.example:3128")
    assert text == "a *** b *** c *** d Basic *** e http://***@proxy.example:3128"


@pytest.mark.parametrize(
    ("line", "scrubbed"),
    [
        (f"token {SESSION}", "token cm1_ses_***"),
        (f"a token of somebody else: {CREDENTIAL}.", "a token of somebody else: cm1_iso_***."),
        ("BOOT_IMAGE=/x coldmig.proxy=http://u:p@h:1 quiet", "BOOT_IMAGE=/x coldmig.proxy=http://***@h:1 quiet"),
        ("coldmig.root_password_hash=$6$salt$abcdefghijk/. quiet", "coldmig.root_password_hash=*** quiet"),
        ("root:$y$j9T$abcdefgh$ijklmnop:1", "root:$***:1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("proxy_password: geheim, next", "proxy_password: ***, next"),
        ("Dentry cache hash table entries: 65536", "Dentry cache hash table entries: 65536"),
        ("disk 0: 12 % at https://site.example:8443", "disk 0: 12 % at https://site.example:8443"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(line: str, scrubbed: str) -> None:
    assert Scrubber()(line) == scrubbed


def test_the_first_and_the_last_lines_are_kept_within_bounds() -> None:
    keeper = LogKeeper()
    logger = logging.getLogger("test_logs")
    logger.propagate = False
    logger.addHandler(keeper)
    try:
        for number in range(30_000):
            logger.warning("line %d", number)
        logger.warning("x" * 10_000 + "\nlast")
    finally:
        logger.removeHandler(keeper)
    lines = keeper.lines()
    assert lines[0].endswith("test_logs: line 0")
    assert lines[-1] == "last"
    assert lines[-3].endswith("line 29999")
    assert sum(line == "[… lines are left out here …]" for line in lines) == 1
    assert max(map(len, lines)) <= 2000
    assert sum(map(len, lines)) < 1 << 19


def test_the_kernels_records_become_lines(tmp_path: Path) -> None:
    # A pipe that breaks records as /dev/kmsg does would need a kernel; the form of one record is what matters.
    device = tmp_path / "kmsg"
    os.mkfifo(device)
    fd = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, b"6,1,1234567,-;sd 0:0:0:0: [sda] Attached\n SUBSYSTEM=scsi\n")
        assert kernel_lines(device) == ["[    1.234567] sd 0:0:0:0: [sda] Attached"]
    finally:
        os.close(fd)
    assert kernel_lines(tmp_path / "nothing") == []


def test_too_much_loses_the_older_half_of_each_part() -> None:
    noise = random.Random(1)
    lines = [f"{number} {noise.randbytes(40).hex()}" for number in range(2000)]
    packed = pack([("agent", lines), ("kernel", ["short"])], Scrubber(), 20_000)
    assert len(packed) <= 20_000
    text = gzip.decompress(packed).decode()
    assert lines[-1] in text
    assert lines[0] not in text
    assert "left out" in text
    assert "== kernel\n" in text


def test_what_is_packed_fits_into_a_request_of_the_site() -> None:
    assert len(base64.b64encode(bytes(logs.MAX_PACKED))) < 1_000_000


def test_the_least_memory_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("VmHWM:\t   41234 kB\n")
    watch = MemoryWatch(tmp_path)
    for available in (300_000, 120_000, 280_000):
        (tmp_path / "meminfo").write_text(f"MemTotal:  490000 kB\nMemAvailable:  {available} kB\n")
        watch.look()
    assert watch.line() == "memory: 490000 KiB, least available 120000 KiB, agent at most 41234 KiB"
