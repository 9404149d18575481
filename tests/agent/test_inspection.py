# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking into real file systems on real loop devices: what is found, and that not one byte of the disk changes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, ext4_image, need, place, run, write_tree

from coldmig_agent import inspection, overlay
from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.overlay import OverlayError, View, have_device_mapper
from support.images import sha256

pytestmark = pytest.mark.usefixtures("loop_devices")

GUEST = {
    "/etc/os-release": "->../usr/lib/os-release",
    "/usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "/etc/hostname": "erp-db-01\n",
    "/etc/fstab": "UUID=1 / ext4 defaults 0 1\n",
    "/usr/bin/": "",
    "/bin": "->usr/bin",
    "/lib": "->usr/lib",
    "/usr/lib/modules/6.1.0-20-amd64/modules.builtin": "kernel/drivers/ata/ata_piix.ko\n",
    "/usr/lib/modules/6.1.0-20-amd64/modules.dep": "kernel/drivers/net/vmxnet3/vmxnet3.ko:\n",
}
MODULE = "usr/lib/modules/6.1.0-20-amd64/kernel/drivers/scsi/vmw_pvscsi.ko"


def initramfs(directory: Path) -> bytes:
    need("cpio", "gzip")
    write_tree(directory, {MODULE: "x"})
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=MODULE.encode(), cwd=directory, capture_output=True, check=True
    )
    return run("gzip", "-c", stdin=archive.stdout)


def guest_tree(root: Path, scratch: Path) -> Path:
    boot: dict[str, str | bytes] = {
        "/boot/vmlinuz-6.1.0-20-amd64": b"kernel",
        "/boot/initrd.img-6.1.0-20-amd64": initramfs(scratch),
    }
    return write_tree(root, {**GUEST, **boot})


def disk_with(path: Path, filesystem: Path, megabytes: int) -> Path:
    """A GPT disk with the file system in its first partition."""
    need("sgdisk")
    empty_image(path, megabytes * MIB)
    run("sgdisk", "-n1:2048:0", "-t1:8300", path)
    place(path, filesystem, MIB)
    return path


def mounted_copy(image: Path, tree: Path, mountpoint: Path) -> None:
    """Fill an empty file system by mounting it."""
    mountpoint.mkdir()
    run("mount", "-o", "loop", image, mountpoint)
    try:
        run("cp", "-a", f"{tree}/.", mountpoint)
    finally:
        run("umount", mountpoint)


@pytest.fixture(params=["ext4", "xfs", "btrfs", "btrfs-subvolume"])
def guest_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    kind = str(request.param)
    need(f"mkfs.{kind.partition('-')[0]}")
    tree = guest_tree(tmp_path / "tree", tmp_path / "scratch")
    filesystem = tmp_path / "fs.img"
    if kind == "ext4":
        ext4_image(filesystem, 40 * MIB, tree)
    elif kind == "xfs":
        run("mkfs.xfs", "-q", empty_image(filesystem, 320 * MIB))
        mounted_copy(filesystem, tree, tmp_path / "mnt")
    else:
        source = tree
        if kind == "btrfs-subvolume":
            source = tmp_path / "top"
            source.mkdir()
            tree.rename(source / "@rootfs")
        run("mkfs.btrfs", "-q", "--rootdir", source, empty_image(filesystem, 128 * MIB))
    return disk_with(tmp_path / "disk.img", filesystem, filesystem.stat().st_size // MIB + 2)


def test_a_linux_guest_is_found_and_the_disk_is_unchanged(guest_disk: Path) -> None:
    before = sha256(guest_disk)
    guest, notices = inspection.inspect(read_image_files([guest_disk]), "bios")
    assert (guest.os_type, guest.id, guest.hostname) == ("linux", "debian", "erp-db-01")
    assert guest.kernel == "6.1.0-20-amd64"
    assert guest.drivers == ("ata_piix", "vmw_pvscsi", "vmxnet3")
    assert [notice.code for notice in notices] == []
    assert sha256(guest_disk) == before


def dirty_ext4(tmp_path: Path) -> Path:
    """An ext4 whose journal holds a change that its files do not have yet, as after a loss of power."""
    need("debugfs")
    tree = guest_tree(tmp_path / "tree", tmp_path / "scratch")
    filesystem = ext4_image(tmp_path / "fs.img", 40 * MIB, tree)
    run("debugfs", "-w", "-R", "feature needs_recovery", filesystem)
    block = run("debugfs", "-R", "blocks /etc/hostname", filesystem).decode().split()[0]
    new = tmp_path / "block"
    size = int(run("blkid", "-p", "-o", "value", "-s", "FSBLOCKSIZE", filesystem) or b"1024")
    new.write_bytes(b"erp-db-02\n".ljust(size, b"\0"))
    script = f"jo\njw -b {block} {new}\njc\nfeature needs_recovery\n"
    subprocess.run(
        ["debugfs", "-w", "-f", "-", str(filesystem)], input=script.encode(), check=True, capture_output=True
    )
    return disk_with(tmp_path / "disk.img", filesystem, 42)


def test_a_dirty_journal_is_replayed_only_on_the_overlay(tmp_path: Path) -> None:
    disk = dirty_ext4(tmp_path)
    before = sha256(disk)
    sources = read_image_files([disk])
    assert sources[0].volumes[0].content.unclean
    guest, _ = inspection.inspect(sources, "bios")
    # With device-mapper the guest is seen as it will boot; without, the journal is left alone and the disk as it lies.
    assert guest.hostname == ("erp-db-02" if have_device_mapper() else "erp-db-01")
    assert sha256(disk) == before


def test_a_damaged_file_system_is_a_notice_and_not_a_failure(tmp_path: Path) -> None:
    filesystem = ext4_image(tmp_path / "fs.img", 16 * MIB, write_tree(tmp_path / "tree", GUEST))
    with filesystem.open("r+b") as file:
        file.seek(2048)
        file.write(os.urandom(64 * 1024))
    guest, notices = inspection.inspect(read_image_files([disk_with(tmp_path / "d.img", filesystem, 18)]), "bios")
    assert guest.os_type == "unknown"
    assert {"guest-not-found"} <= {notice.code for notice in notices}


def test_an_empty_disk_has_no_guest_and_says_so(tmp_path: Path) -> None:
    guest, notices = inspection.inspect(read_image_files([empty_image(tmp_path / "d.img", 8 * MIB)]), "bios")
    assert guest.os_type == "unknown"
    assert [notice.code for notice in notices] == ["guest-not-found"]


def loops_of(directory: Path) -> list[str]:
    return [line for line in run("losetup", "--list", "--noheadings").decode().splitlines() if str(directory) in line]


def test_an_inspection_that_takes_too_long_is_ended_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_with(
        tmp_path / "d.img", ext4_image(tmp_path / "fs.img", 16 * MIB, write_tree(tmp_path / "t", GUEST)), 18
    )
    monkeypatch.setattr(inspection, "TIME_LIMIT", 0.01)
    _, notices = inspection.inspect(read_image_files([disk]), "bios")
    assert "volume-not-readable" in {notice.code for notice in notices}
    assert loops_of(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_nothing_is_left_after_an_inspection(tmp_path: Path) -> None:
    disk = disk_with(
        tmp_path / "d.img", ext4_image(tmp_path / "fs.img", 16 * MIB, write_tree(tmp_path / "t", GUEST)), 18
    )
    inspection.inspect(read_image_files([disk]), "bios")
    assert loops_of(tmp_path) == []
    assert not list(overlay.WORK_DIR.glob("*.cow"))


def test_an_inspecting_process_that_dies_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OverlayError, match="failed"):
        inspection._inspect_view(View(tmp_path, "ext4", ""))


def test_the_inspecting_process_answers_with_an_error_for_what_it_cannot_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OverlayError, match="mounting ext4"):
        inspection._inspect_view(View(tmp_path / "absent", "ext4", ""))
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}"))
    with pytest.raises(KeyError):
        inspection.child_main()
    assert json.loads(capsys.readouterr().out or "null") is None
