#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for the agent on a test image: says what it finds in the live system, and attacks the fence.

Writes one line ``PROBE {json}`` to the serial console. Every attack is something that writes on a stock live system.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ATTACKS = {
    "mount_ext4": "mount -o ro -t ext4 $A2 /mnt",
    "mount_xfs": "mount -o ro -t xfs $A5 /mnt",
    "mount_btrfs": "mount -o ro -t btrfs -o device=$A6,device=$B2 $A6 /mnt",
    "write_partition": "dd if=/dev/zero of=$A2 bs=4096 count=1 conv=fsync",
    "write_disk": "dd if=/dev/zero of=$B bs=512 count=1 conv=fsync",
    "load_md": "modprobe md_mod",
    "load_raid1": "modprobe raid1",
    "assemble": "mdadm --assemble --scan --run",
    "assemble_named": "mdadm --assemble --run /dev/md0 $A4 $B1",
    "load_dm_raid": "modprobe dm_raid",
    "swap": "swapon $A1",
    "activate_lvm": "vgchange -a y vg",
    "list_lvm": "vgs --noheadings -o name | grep .",
    "trigger_udev": "udevadm trigger --action=add --subsystem-match=block && udevadm settle && false",
    "resume": "test -e /usr/lib/systemd/systemd-hibernate-resume",
    # The kernel itself: it takes the mark off a hibernation image that it cannot use.
    "resume_by_hand": "stat -c 0x%t:0x%T $A1 | { IFS=: read a b; echo $((a)):$((b)) >/sys/power/resume; } && false",
    "assemble_intel": "IMSM_NO_PLATFORM=1 mdadm --assemble /dev/md127 $C $D",
    "mount_windows": "ntfs-3g -o recover,remove_hiberfile $W /mnt",
    "mount_live_system": "mount -w -t ext4 $L /mnt",
    "register_bcache": "modprobe bcache; echo $K >/sys/fs/bcache/register",
    "write_path": "dd if=/dev/zero of=$S bs=4096 count=1 conv=fsync",
    "multipath": "command -v multipath",
    "variable": "printf '\\7\\0\\0\\0x' >/sys/firmware/efi/efivars/Coldmig-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    "check": "fsck -y $A2",
    "discard": "blkdiscard -f $A2",
    # The system's clock may be set; that of the machine must not follow.
    "clock": "date -s 2031-02-03 && sleep 3 && false",
}
#: How the attacks call the disks, by their serial numbers.
LETTERS = {
    "$A": "DIRTY-0",
    "$B": "DIRTY-1",
    "$C": "DIRTY-2",
    "$D": "DIRTY-3",
    "$W": "ODD-0",
    "$L": "ODD-1",
    "$K": "ODD-3",
    "$S": "ODD-5",
}


def output(command: str) -> str:
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S602


def dirty_disks() -> dict[str, str]:
    """Names of the disks that the tests made (dirty_disks.py, odd_disks.py), by their serial numbers."""
    rows = [line.split() for line in output("lsblk --nodeps --noheadings --output PATH,SERIAL").splitlines()]
    by_serial = {row[1]: row[0] for row in rows if len(row) == 2}
    found = {letter: by_serial.get(serial, "") for letter, serial in LETTERS.items()}
    return found if any(found.values()) else {}


def attack(command: str, disks: dict[str, str]) -> dict[str, Any]:
    for variable, path in disks.items():
        command = command.replace(variable, path)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)  # noqa: S602
    return {"exit": done.returncode, "said": (done.stdout + done.stderr).strip()[-200:]}


def inspect() -> dict[str, Any]:
    """What the agent's inspection says of the disks, and what it leaves: with its own limits, then without time."""
    from coldmig_agent import fence  # only where the test put them into this program
    from coldmig_agent.discovery.disks import read_machine_disks
    from coldmig_agent.inspection.limits import read_limits
    from coldmig_agent.inspection.look import inspect as look_into

    roots = (Path("/sys"), Path("/dev"), Path("/run"))
    sources = read_machine_disks(*roots, fence.protect)
    limits = read_limits(Path("/proc"))
    assert limits is not None
    least = [available_kib()]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            least.append(available_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    look = look_into(sources, limits)
    stop.set()
    watcher.join()
    hurried = look_into(sources, replace(limits, seconds=3.0))
    # One dirty file system, and no room for what its journal changes.
    few = [replace(sources[0], volumes=tuple(item for item in sources[0].volumes if item.number == 2))]
    cramped = look_into(few, replace(limits, overlay_bytes=16 << 10))
    return {
        "sources": [{"serial": source.disk.serial, "paths": list(source.disk.paths)} for source in sources],
        "limit": limits.seconds,
        "volumes": {
            volume.key: {
                "fstype": volume.fstype,
                "names": volume.names,
                "problem": volume.problem,
                "hosts": [system.hostname for system in volume.facts.systems] if volume.facts else None,
            }
            for volume in look.volumes
        },
        "notices": [notice.code for notice in look.notices],
        "report": asdict(look.report),
        "hurried": asdict(hurried.report),
        "cramped": {
            "hosts": [system.hostname for volume in cramped.volumes if volume.facts for system in volume.facts.systems],
            "problems": cramped.report.problems,
        },
        "memory_kib": least[0] - min(least),
        "left": leftovers(),
    }


def leftovers() -> list[str]:
    """Devices, modules and mounts that only an inspection makes."""
    found = [line for line in output("dmsetup ls").splitlines() if line != "No devices found"]
    found += [line for line in output("losetup --noheadings --output NAME,BACK-FILE").splitlines() if "/live/" not in
              line and "/memory/" not in line and "squashfs" not in line]  # fmt: skip
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if "coldmig/inspection" in line]
    modules = {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}
    found += sorted(modules & {"md_mod", "raid0", "raid1", "raid10", "raid456", "linear", "dm_raid", "dm_cache"})
    return found + [str(path) for path in [Path("/dev/coldmig"), *Path("/dev").glob("md*")] if path.exists()]


def available_kib() -> int:
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(memory["MemAvailable"].split()[0])


def facts() -> dict[str, Any]:
    config = Path("/run/coldmig/config.json")
    efivars = [line for line in Path("/proc/mounts").read_text().splitlines() if " efivarfs " in line]
    libraries = "import blake3, isal.isal_zlib, hivex, ssl, json, ctypes, sqlite3"
    return {
        "config": json.loads(config.read_text()) if config.exists() else None,
        "config_mode": oct(config.stat().st_mode & 0o777) if config.exists() else None,
        "medium": json.loads(Path("/run/coldmig/medium.json").read_text()),
        "cmdline": Path("/proc/cmdline").read_text().split(),
        "available_mib": available_kib() >> 10,
        "efi": Path("/sys/firmware/efi").is_dir(),
        "efivars": efivars,
        "failed_units": output("systemctl --failed --no-legend --plain").splitlines(),
        "running": sorted(
            line.split()[0]
            for line in output("systemctl list-units --type=service --state=running --plain --no-legend").splitlines()
        ),
        "modules": sorted(line.split()[0] for line in Path("/proc/modules").read_text().splitlines()),
        "writable_disks": [
            path.name
            for path in Path("/sys/class/block").iterdir()
            if not path.name.startswith(("loop", "ram", "dm-", "sr", "fd")) and (path / "ro").read_text().strip() == "0"
        ],
        "disks": [
            {"serial": disk["serial"], "transport": disk["tran"]}
            for disk in json.loads(output("lsblk --json --nodeps --output SERIAL,TRAN,TYPE,RM"))["blockdevices"]
            if (disk["serial"] or "").startswith("ON-")
        ],
        "addresses": output("ip -brief address show scope global"),
        "libraries": subprocess.run([sys.executable, "-c", libraries], check=False).returncode,
        "tools": [
            name
            for name in (
                "dmsetup",
                "lvm",
                "ntfs-3g",
                "zstd",
                "lz4",
                "lzop",
                "xz",
                "ethtool",
                "losetup",
                "blkid",
                "lsblk",
            )
            if not output(f"command -v {name}")
        ],
    }


def main() -> None:
    if sys.argv[1:2] == ["network"]:
        return
    say("PROBE-STARTED")
    for _ in range(60):
        if output("ip -brief -4 address show scope global") or not output("ip -brief link show type ether"):
            break
        time.sleep(1)
    found = facts()
    if disks := dirty_disks():
        if "coldmig.inspect=no" not in found["cmdline"]:
            found["inspection"] = inspect()
        Path("/mnt").mkdir(exist_ok=True)
        found["attacks"] = {name: attack(command, disks) for name, command in ATTACKS.items()}
        # An overlay without room (dm) complains too, and has to.
        complaints = output("dmesg | grep -iE 'read-only block-device|I/O error' | grep -v 'dev dm-' | tail -n 5")
        found["complaints"] = complaints.splitlines()
        os.sync()
    say("PROBE " + json.dumps(found))
    if disks:
        # Whatever the end of a system writes is to be seen too.
        subprocess.run(["systemctl", "poweroff"], check=False)
    while True:
        time.sleep(1000)


def say(text: str) -> None:
    with Path("/dev/ttyS0").open("w") as console:
        console.write(text + "\r\n")


if __name__ == "__main__":
    main()
