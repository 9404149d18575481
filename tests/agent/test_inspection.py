# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking into real file systems on real loop devices: what is found, and that not one byte of the disk changes.

Overlays, arrays and logical volumes need device-mapper, which the kernel of a test machine need not have: tests/iso
tries them in the live system.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_lab import MIB, empty_image, ext4_image, need, place, run, write_tree

from coldmig_agent.discovery.disks import read_image_files
from coldmig_agent.guest.facts import VolumeFacts
from coldmig_agent.inspection import CHILD_COMMAND, child, devices, filesystems, jail, limits, look, lvm, md, teardown
from coldmig_agent.inspection.block import of_volume
from coldmig_agent.inspection.errors import InspectionError, OutOfTimeError
from coldmig_agent.inspection.limits import Limits
from coldmig_agent.inspection.look import Look, inspect
from coldmig_agent.inspection.reader import Reader
from support.images import sha256
from support.processes import AGENT_SOURCE, GATEWAY_SOURCE, python_path

GUEST: dict[str, str | bytes] = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "/etc/hostname": "erp-db-01\n",
    "/etc/fstab": "UUID=1 / ext4 defaults 0 1\n",
    "/usr/bin/": "",
    "/bin": "->usr/bin",
}
needs_loops = pytest.mark.usefixtures("loop_devices")
LIMITS = Limits(120)


def disk_with(path: Path, filesystem: Path) -> Path:
    """A GPT disk with the file system in its first partition."""
    need("sgdisk")
    empty_image(path, filesystem.stat().st_size + 2 * MIB)
    run("sgdisk", "-n1:2048:0", "-t1:8300", path)
    place(path, filesystem, MIB)
    return path


def guest_disk(tmp_path: Path, name: str = "disk") -> Path:
    filesystem = ext4_image(tmp_path / f"{name}.fs", 16 * MIB, write_tree(tmp_path / f"{name}.tree", GUEST))
    return disk_with(tmp_path / f"{name}.img", filesystem)


def hostnames(found: Look) -> dict[str, list[str | None]]:
    return {v.key: [system.hostname for system in v.facts.systems] for v in found.volumes if v.facts is not None}


def inspect_images(*images: Path, limit: Limits = LIMITS) -> Look:
    return inspect(read_image_files(images), limit)


def loops_of(directory: Path) -> list[str]:
    return [line for line in run("losetup", "--list", "--noheadings").decode().splitlines() if str(directory) in line]


@needs_loops
def test_a_system_is_found_and_the_disk_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = guest_disk(tmp_path)
    monkeypatch.chdir("/")  # as the agent's service
    before = sha256(disk)
    found = inspect_images(disk)
    assert hostnames(found) == {"disk0/1": ["erp-db-01"]}
    volume = found.volumes[0]
    assert (volume.place, volume.fstype, volume.problem) == ("disk 0, partition 1", "ext4", "")
    assert [name.partition("=")[0] for name in volume.names] == ["PARTUUID"]
    assert found.report.writes[0].ios == 0
    assert sha256(disk) == before
    assert loops_of(tmp_path) == []


@needs_loops
@pytest.mark.parametrize(("kind", "megabytes"), [("xfs", 300), ("btrfs", 112), ("ntfs", 8)])
def test_other_file_systems_are_mounted_too(tmp_path: Path, kind: str, megabytes: int) -> None:
    maker = {"xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"], "ntfs": ["mkntfs", "-Q", "-F", "-q"]}[kind]
    need(maker[0], *(["ntfs-3g"] if kind == "ntfs" else []))
    filesystem = empty_image(tmp_path / "fs.img", megabytes * MIB)
    run(*maker, filesystem)
    disk = disk_with(tmp_path / "disk.img", filesystem)
    before = sha256(disk)
    volume = inspect_images(disk).volumes[0]
    assert (volume.fstype, volume.problem) == (kind, "")
    assert isinstance(volume.facts, VolumeFacts)
    assert sha256(disk) == before


@needs_loops
def test_the_default_subvolume_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mkfs.btrfs", "btrfs")
    filesystem = empty_image(tmp_path / "fs.img", 128 * MIB)
    run("mkfs.btrfs", "-q", filesystem)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    run("mount", "-o", "loop", filesystem, mountpoint)
    try:
        for name in ("@", "@home", "with blank"):
            run("btrfs", "subvolume", "create", mountpoint / name)
        write_tree(mountpoint / "@", GUEST)
        run("btrfs", "subvolume", "set-default", mountpoint / "@")
    finally:
        run("umount", mountpoint)
    (system,) = (volume := inspect_images(disk_with(tmp_path / "disk.img", filesystem)).volumes[0]).facts.systems
    assert (system.path, system.default, system.hostname, volume.problem) == ("@", True, "erp-db-01", "")


def test_the_root_of_a_mount_is_found_in_mountinfo() -> None:
    text = (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "90 21 0:40 /@/.snapshots/1/snapshot /jail/other ro - btrfs /dev/volume0 ro,subvol=/x\n"
        "91 21 0:40 /with\\040blank /jail/third ro - btrfs /dev/volume0 ro\n"
    )
    assert child.mount_root(text, "/jail/other") == "@/.snapshots/1/snapshot"
    assert child.mount_root(text, "/jail/third") == "with blank"
    assert child.mount_root(text, "/absent") == ""


@needs_loops
def test_a_damaged_file_system_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    bad, good = guest_disk(tmp_path, "bad"), guest_disk(tmp_path, "good")
    with bad.open("r+b") as file:
        file.seek(MIB + 2048)
        file.write(os.urandom(64 * 1024))
    found = inspect_images(bad, good)
    assert hostnames(found) == {"disk1/1": ["erp-db-01"]}
    assert found.volumes[0].facts is None
    assert "mounting ext4" in found.volumes[0].problem


@needs_loops
def test_a_look_that_takes_too_long_ends_and_leaves_nothing(tmp_path: Path) -> None:
    disk = guest_disk(tmp_path)
    found = inspect_images(disk, limit=Limits(0.1))
    assert found.volumes[0].facts is None
    assert "took longer" in found.volumes[0].problem or "no time is left" in found.volumes[0].problem
    assert loops_of(tmp_path) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@needs_loops
def test_what_is_encrypted_or_swap_is_listed_and_not_opened(tmp_path: Path) -> None:
    need("cryptsetup", "mkswap")
    for name in ("luks", "swap"):
        empty_image(tmp_path / name, 32 * MIB)
    cheap = ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
    run("cryptsetup", "luksFormat", "--batch-mode", *cheap, "--key-file=-", tmp_path / "luks", stdin=b"x")
    run("mkswap", tmp_path / "swap")
    found = inspect_images(tmp_path / "luks", tmp_path / "swap")
    assert [(v.fstype, v.facts, v.problem) for v in found.volumes] == [("crypto_LUKS", None, ""), ("swap", None, "")]


@needs_loops
def test_an_inspection_that_is_switched_off_touches_nothing(tmp_path: Path) -> None:
    disk = guest_disk(tmp_path)
    found = inspect(read_image_files([disk]), None)
    assert [(volume.fstype, volume.facts) for volume in found.volumes] == [("ext4", None)]
    assert "switched off" in found.report.problems[0]


@needs_loops
def test_a_process_that_dies_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Reader() as reading, pytest.raises(InspectionError, match=r"ended without an answer|cannot be reached"):
        reading.read([tmp_path], "ext4", 10, replay=False)


FAKE_SERVER = """#!{python}
import os, socket, time
while True:
    message, pipes, _, _ = socket.recv_fds(socket.socket(fileno=os.dup(0)), 65536, 1)
    if not message:
        break
    {act}
    os.close(pipes[0])
"""


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        ("os.write(pipes[0], b'{\"facts\": 5}')", "facts is int"),
        ("os.write(pipes[0], b'{\"evil\": 1}')", "unknown field"),
        ("[os.write(pipes[0], bytes(1 << 16)) for _ in range(20)]", "said too much"),
        ("time.sleep(100)", "took longer"),
        ('os.write(pipes[0], b\'{"problem": "mounting xfs: structure needs cleaning"}\')', "needs cleaning"),
        ("os._exit(1)", "ended without an answer"),
    ],
)
def test_only_a_decent_answer_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, complaint: str
) -> None:
    program = tmp_path / "server"
    program.write_text(FAKE_SERVER.format(python=sys.executable, act=act))
    program.chmod(0o755)
    monkeypatch.setattr(jail, "PLACE", tmp_path / "jail")
    monkeypatch.setattr(sys, "executable", str(program))
    with Reader() as reading:
        for _again in range(2):  # what went wrong once does not spoil the next one
            with pytest.raises(InspectionError, match=complaint):
                reading.read([tmp_path], "ext4", 3, replay=False)


def test_the_helper_loads_only_what_it_needs() -> None:
    """Every boot waits for it, and on a slow machine Python takes seconds to load the whole agent."""
    argv = [sys.executable, "-X", "importtime", "-m", "coldmig_agent", CHILD_COMMAND]
    with socket.socketpair()[0] as requests:
        done = subprocess.run(
            argv, stdin=requests, env=python_path(AGENT_SOURCE, GATEWAY_SOURCE), capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "coldmig_agent.inspection.child" in loaded
    unwanted = ("coldmig_agent.copying", "coldmig_agent.console", "coldmig_agent.cli", "ssl")
    assert not loaded.intersection(unwanted)


PRISONER = """
import json, os, socket, sys
from pathlib import Path
from coldmig_agent.inspection import jail
jail.bound(60)
jail.isolate()
jail.build({})
jail.enter()
jail.drop_privileges()
def refused(act):
    try:
        act()
    except OSError:
        return True
    return False
print(json.dumps({
    "user": os.getuid(),
    "pid": os.getpid(),
    "top": sorted(path.name for path in Path("/").iterdir()),
    "network": [name for _, name in socket.if_nameindex()],
    "mount": refused(lambda: jail.mount("none", "/tmp", "tmpfs", 0)),
    "node": refused(lambda: os.mknod("/tmp/sda", 0o60600, os.makedev(8, 0))),
    "usr": refused(lambda: Path("/usr/bin/evil").write_text("x")),
    "become_root": refused(lambda: os.setuid(0)),
    "kill_agent": refused(lambda: os.kill(os.getppid() or 99999, 9)),
    "secret": refused(lambda: Path(sys.argv[1]).read_text()),
    "tmp": refused(lambda: Path("/tmp/copy").write_text("x")),
}))
"""


@needs_loops
def test_the_reading_process_can_do_nothing_but_read(tmp_path: Path) -> None:
    secret = tmp_path / "config.json"
    secret.write_text("credential")
    jail.PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, "-c", PRISONER, secret], capture_output=True, text=True, check=True, env=environment
    )
    said = json.loads(done.stdout)
    assert (said["user"], said["pid"], said["network"]) == (65534, 1, ["lo"])
    assert {"usr", "guest", "tmp"} <= set(said["top"])
    assert {"etc", "run", "home"} & set(said["top"]) == set()
    refused = ("mount", "node", "usr", "become_root", "kill_agent", "secret")
    assert {name: said[name] for name in refused} == dict.fromkeys(refused, True)
    assert said["tmp"] is False
    assert list(jail.PLACE.iterdir()) == []  # nothing of it is seen outside


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ("quiet", 60.0),
        ("quiet coldmig.inspect=120 x", 120.0),
        ("coldmig.inspect=no", None),
        ("xcoldmig.inspect=no", 60.0),
        ("coldmig.inspect=no coldmig.inspect=30", 30.0),
        ("coldmig.inspect=12e9", 60.0),
        ("coldmig.inspect=", 60.0),
    ],
)
def test_the_kernel_argument_sets_the_time_or_switches_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, seconds: float | None
) -> None:
    monkeypatch.setattr(limits, "is_emulated", lambda: False)
    (tmp_path / "cmdline").write_text(f"BOOT_IMAGE=/x {arguments}\n")
    found = limits.read_limits(tmp_path)
    assert (found.seconds if found else None) == seconds


def test_an_emulated_machine_gets_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "is_emulated", lambda: True)
    assert limits.read_limits(tmp_path) == Limits(60.0 * limits.EMULATED_FACTOR)


@pytest.mark.parametrize(("available_mib", "overlay_mib"), [(40, 16), (160, 40), (8000, 64)])
def test_little_memory_makes_small_overlays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available_mib: int, overlay_mib: int
) -> None:
    monkeypatch.setattr(limits, "is_emulated", lambda: False)
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:  {available_mib * 1024} kB\n")
    found = limits.read_limits(tmp_path)
    assert found is not None
    assert found.overlay_bytes == overlay_mib * MIB


def test_lvm_is_shown_nothing_but_the_overlays() -> None:
    settings = lvm.configuration(["/dev/coldmig/d0p3", "/dev/coldmig/m0"], ["host.example"])
    assert 'global_filter=["a|^/dev/coldmig/d0p3$|","a|^/dev/coldmig/m0$|","r|.*|"]' in settings
    assert 'dir="/dev/coldmig" scan=["/dev/coldmig"]' in settings
    assert "use_devicesfile=0" in settings
    assert 'extra_system_ids=["host.example"]' in settings
    if subprocess.run(["which", "lvm"], capture_output=True, check=False).returncode == 0:
        done = subprocess.run(
            ["lvm", "lvmconfig", "--config", settings, "devices/dir"], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == 'dir="/dev/coldmig"', done.stderr


LVS = """{"report": [{"lv": [
 {"vg_name":"vg-a", "lv_name":"root", "lv_kernel_major":"254", "lv_kernel_minor":"7", "lv_role":"public,origin",
  "lv_size":"67108864", "segtype":"linear"},
 {"vg_name":"vg-a", "lv_name":"root", "lv_kernel_major":"254", "lv_kernel_minor":"7", "lv_role":"public,origin",
  "lv_size":"67108864", "segtype":"striped"},
 {"vg_name":"vg-a", "lv_name":"[pool_tmeta]", "lv_kernel_major":"-1", "lv_kernel_minor":"-1", "lv_role":"private",
  "lv_size":"4194304", "segtype":"linear"},
 {"vg_name":"../etc", "lv_name":"x", "lv_kernel_major":"1", "lv_kernel_minor":"1", "lv_role":"public",
  "lv_size":"1", "segtype":"linear"}]}]}"""


def test_volumes_are_taken_from_the_report_of_lvm_with_decent_names_only() -> None:
    root, meta = lvm.parse_volumes(LVS)
    assert (root.group, root.name, root.number, root.kind) == ("vg-a", "root", (254, 7), "linear")
    assert (meta.name, meta.number) == ("pool_tmeta", None)
    assert lvm.mapper_name("vg-a", "root") == "vg--a-root"


@pytest.mark.parametrize("text", ["", "[]", '{"report": 1}', '{"report": [{"lv": [{"vg_name": 1}]}]}', "[" * 100_000])
def test_a_report_of_lvm_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InspectionError, match="cannot be read"):
        lvm.parse_volumes(text)


@pytest.mark.parametrize(
    ("name", "wanted"), [("host:root", "root"), ("0", "0"), ("a:b:c", "c"), ("", ""), ("host:../x", ""), ("h:a b", "")]
)
def test_an_array_is_called_as_it_calls_itself(name: str, wanted: str) -> None:
    assert md.array_name(md.parse_export(f"MD_LEVEL=raid1\nMD_NAME={name}\nOTHER=1\n")) == wanted


def fake_sysfs(root: Path, tree: dict[str, tuple[str, list[str]]]) -> None:
    for name, (mapped, holders) in tree.items():
        for holder in holders:
            (root / name / "holders" / holder).mkdir(parents=True)
        (root / name / "dm").mkdir(parents=True)
        if mapped:
            (root / name / "dm/name").write_text(mapped + "\n")


def test_only_our_devices_and_what_stands_on_them_are_taken_down(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {
        "dm-0": ("vg0-root", ["dm-9"]),  # the machine's own
        "dm-9": ("vg0-root-cow", []),
        "dm-1": ("coldmig-d0", ["dm-2", "dm-3"]),
        "dm-2": ("coldmig-d0p1", ["md200"]),
        "dm-3": ("coldmig-d0p2", ["dm-5"]),
        "md200": ("", ["dm-4"]),
        "dm-4": ("vg-root", ["dm-5"]),
        "dm-5": ("vg-thin", []),
    })  # fmt: skip
    order = teardown.our_devices(tmp_path)
    assert order == ["dm-5", "dm-4", "md200", "dm-2", "dm-3", "dm-1"]


def test_a_loop_of_holders_ends(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, {"dm-1": ("coldmig-d0", ["dm-2"]), "dm-2": ("x", ["dm-1"])})
    assert set(teardown.our_devices(tmp_path)) == {"dm-1", "dm-2"}


@pytest.mark.parametrize("fstype", sorted(filesystems.MOUNTABLE))
def test_without_an_overlay_no_journal_is_touched(fstype: str) -> None:
    plain = filesystems.ways(fstype, replay=False)
    assert plain
    untouched = {"ext3": "noload", "ext4": "noload", "xfs": "norecovery", "f2fs": "norecovery", "reiserfs": "nolog"}
    for way in plain:
        assert untouched.get(fstype, "") in way.options
        assert fstype != "btrfs" or "rescue=nologreplay" in way.options


def without_device_mapper(monkeypatch: pytest.MonkeyPatch, steps: dict[str, Callable[..., object]]) -> None:
    """Let everything that needs device-mapper be done by ``steps``."""
    monkeypatch.setattr(devices, "have_device_mapper", lambda _seconds: True)
    monkeypatch.setattr(teardown, "take_down", lambda _clock: [])
    monkeypatch.setattr(look.overlay, "invalid", lambda _clock: [])
    for name, step in steps.items():
        monkeypatch.setattr(look.overlay, name, step)


@needs_loops
@pytest.mark.parametrize("error", [InspectionError("no room"), OutOfTimeError("lvm took too long"), OSError(5, "I/O")])
def test_when_nothing_can_be_put_together_partitions_are_read_as_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    without_device_mapper(monkeypatch, {"prepare": fail})
    found = inspect_images(guest_disk(tmp_path))
    assert hostnames(found) == {"disk0/1": ["erp-db-01"]}
    assert any(str(error) in problem for problem in found.report.problems)


@needs_loops
def test_one_disk_without_an_overlay_does_not_keep_the_others_from_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[int] = []

    def add_disk(source: object, *_: object) -> Path:
        added.append(source.disk.index)  # type: ignore[attr-defined]
        raise InspectionError("this disk has bad sectors")

    without_device_mapper(monkeypatch, {"prepare": lambda *_: None, "add_disk": add_disk})
    found = inspect_images(guest_disk(tmp_path, "one"), guest_disk(tmp_path, "two"))
    assert added == [0, 1]
    assert set(hostnames(found)) == {"disk0/1", "disk1/1"}


def test_a_partition_is_named_as_a_guest_may_name_it(tmp_path: Path) -> None:
    need("sgdisk")
    disk = empty_image(tmp_path / "d.img", 8 * MIB)
    identity = "6f7d2c9e-9d2f-4b59-9f36-2f0a3a5e1d10"
    run("sgdisk", "-n1:2048:0", "-c1:system root", f"-u1:{identity}", disk)
    (source,) = read_image_files([disk])
    assert of_volume(source, source.volumes[0]).names == (f"PARTUUID={identity}", "PARTLABEL=system root")
