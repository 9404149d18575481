# SPDX-License-Identifier: GPL-3.0-or-later
"""What the live system does for the copy: network settings, ciphers, tools that only read."""

from __future__ import annotations

import fnmatch
import subprocess
from pathlib import Path

import pytest
from coldmig_iso import SOURCES
from coldmig_iso.lists import read_list

LIVE = SOURCES / "live"


AES, CHACHA = "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"


@pytest.mark.parametrize(("flags", "first"), [("fpu sse2 aes avx", AES), ("fpu sse2 vaes avx", CHACHA), ("", CHACHA)])
def test_the_cipher_that_costs_the_processor_least_comes_first(flags: str, first: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n")
    output = tmp_path / "openssl.cnf"
    subprocess.run(["sh", str(LIVE / "usr/lib/coldmig/choose-ciphers"), str(output), str(cpuinfo)], check=True)
    command = [
        "python3", "-c",
        "import ssl; print(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()[0]['name'])",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={"OPENSSL_CONF": str(output), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == first


def test_the_agent_is_started_with_these_ciphers() -> None:
    unit = (LIVE / "etc/systemd/system/coldmig-agent.service").read_text()
    assert "Environment=OPENSSL_CONF=/run/coldmig/openssl.cnf" in unit
    assert "ExecStartPre=-/usr/lib/coldmig/choose-ciphers /run/coldmig/openssl.cnf" in unit


def test_modules_for_the_network_settings_are_in_the_image() -> None:
    kept = " ".join(read_list("modules-system.txt"))
    for name in (LIVE / "etc/modules-load.d/coldmig.conf").read_text().split("\n"):
        if name and not name.startswith("#"):
            assert f"/{name}.ko" in kept


@pytest.mark.parametrize(
    "tool",
    [
        "usr/sbin/dumpe2fs", "usr/sbin/xfs_db", "usr/sbin/xfs_logprint", "usr/bin/ntfs-3g.probe",
        "usr/sbin/partclone.ntfs", "usr/sbin/partclone.fat", "usr/sbin/partclone.exfat", "usr/sbin/partclone.btrfs",
        "usr/sbin/blkid", "usr/sbin/losetup", "usr/bin/choom", "usr/bin/setpriv", "usr/bin/prlimit", "usr/bin/unshare",
    ],
)  # fmt: skip
def test_tools_of_the_survey_stay_in_the_image(tool: str) -> None:
    assert not removed(tool)


@pytest.mark.parametrize(
    "tool",
    [
        "usr/sbin/partclone.restore", "usr/sbin/partclone.dd", "usr/sbin/partclone.extfs", "usr/sbin/xfs_repair",
        "usr/sbin/xfs_growfs", "usr/sbin/debugfs", "usr/sbin/tune2fs", "usr/sbin/resize2fs", "usr/bin/ntfsmove",
        "usr/sbin/partclone.ntfsfixboot", "usr/sbin/mkfs.xfs",
    ],
)  # fmt: skip
def test_tools_that_write_are_not_in_the_image(tool: str) -> None:
    assert removed(tool)


def removed(path: str) -> bool:
    patterns = read_list("removed.txt") + read_list("fence/removed-files.txt")
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)
