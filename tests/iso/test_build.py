# SPDX-License-Identifier: GPL-3.0-or-later
"""The build tool's own logic, without building an image."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_config
from coldmig_iso import FORMAT, SOURCES, firmware, image, layer, modules, squashfs, tree
from coldmig_iso.cache import Cache, digest_of
from coldmig_iso.cpio import Archive
from coldmig_iso.lists import read_list
from coldmig_iso.run import BuildError, run
from coldmig_iso.system import remove
from coldmig_iso.tree import TreeOptions

DEPENDENCIES = modules.parse_dependencies(
    "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\n"
    "kernel/fs/jbd2/jbd2.ko:\n"
    "kernel/lib/crc16.ko:\n"
    "kernel/drivers/md/md-mod.ko:\n"
    "kernel/drivers/md/raid1.ko: kernel/drivers/md/md-mod.ko\n"
    "kernel/drivers/md/dm-raid.ko: kernel/drivers/md/raid1.ko kernel/drivers/md/md-mod.ko\n"
    "kernel/drivers/net/igb.ko: kernel/drivers/i2c/i2c-algo-bit.ko\n"
    "kernel/drivers/i2c/i2c-algo-bit.ko:\n"
)


def test_format_is_that_of_the_patching_code() -> None:
    assert FORMAT == _iso_config.FORMAT


def test_modules_are_closed_over_their_dependencies() -> None:
    chosen = modules.select(DEPENDENCIES, ["kernel/fs/ext4/*", "kernel/drivers/net/*"])
    kept = modules.close(DEPENDENCIES, chosen)
    assert kept == {
        "kernel/fs/ext4/ext4.ko",
        "kernel/fs/jbd2/jbd2.ko",
        "kernel/lib/crc16.ko",
        "kernel/drivers/net/igb.ko",
        "kernel/drivers/i2c/i2c-algo-bit.ko",
    }
    assert modules.missing_dependencies(DEPENDENCIES, kept) == {}


def test_module_without_its_dependency_is_reported() -> None:
    assert modules.missing_dependencies(DEPENDENCIES, {"kernel/drivers/net/igb.ko"}) == {
        "kernel/drivers/net/igb.ko": ["kernel/drivers/i2c/i2c-algo-bit.ko"]
    }


def test_later_pattern_takes_matches_away() -> None:
    assert modules.select(DEPENDENCIES, ["kernel/lib/*", "!*/crc16.ko"]) == set()


def test_forbidden_module_goes_with_all_that_need_it() -> None:
    kept = modules.without_forbidden(DEPENDENCIES, DEPENDENCIES, ["md_mod"])
    assert not [path for path in kept if "/md/" in path]
    assert "kernel/fs/ext4/ext4.ko" in kept


def test_software_raid_and_swap_memory_are_forbidden() -> None:
    forbidden = set(read_list("fence/forbidden-modules.txt"))
    assert {"md_mod", "raid0", "raid1", "raid10", "raid456", "bcache", "drbd", "zram", "dm_raid"} <= forbidden
    # Btrfs needs it, and all it does is arithmetic.
    assert not any(fnmatch.fnmatch("raid6_pq", name) for name in forbidden)


def test_only_modules_that_the_fence_forbids_lie_apart_for_the_inspection() -> None:
    """Whatever else they need may be loaded by anybody anyway."""
    forbidden = read_list("fence/forbidden-modules.txt")
    for path in read_list("modules-assembly.txt"):
        assert [name for name in forbidden if fnmatch.fnmatch(modules.module_name(path), name)], path


def test_firmware_is_kept_by_exact_name_and_by_pattern() -> None:
    keep, missing = firmware.match(
        ["bnx2/a.fw", "intel/ice/ddp/*.pkg", "gone.bin"], ["bnx2/a.fw", "bnx2/b.fw", "intel/ice/ddp/ice-1.pkg"]
    )
    assert keep == {"bnx2/a.fw", "intel/ice/ddp/ice-1.pkg"}
    assert missing == {"gone.bin"}


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("zstd-15", ("-comp", "zstd", "-b", "128K", "-Xcompression-level", "15")),
        ("zstd-19-256K", ("-comp", "zstd", "-b", "256K", "-Xcompression-level", "19")),
        ("xz-1M", ("-comp", "xz", "-b", "1M", "-Xbcj", "x86")),
        ("gzip", ("-comp", "gzip", "-b", "128K")),
    ],
)
def test_compression_is_understood(text: str, arguments: tuple[str, ...]) -> None:
    assert squashfs.parse_compression(text).arguments == arguments


@pytest.mark.parametrize("text", ["zstd", "zstd-0", "zstd-23", "lz4", "xz-2M", ""])
def test_unknown_compression_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(BuildError, match=r"allowed: zstd-1 to zstd-22"):
        squashfs.parse_compression(text)


@pytest.mark.parametrize("size", [4096, 4097, 10_000])
def test_wrapped_image_starts_at_its_offset_and_is_an_archive(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    source, target = tmp_path / "plain", tmp_path / "wrapped"
    source.write_bytes(content)
    squashfs.wrap(source, target, "system.squashfs")
    data = target.read_bytes()
    assert data[squashfs.OFFSET : squashfs.OFFSET + size] == content
    if shutil.which("cpio"):
        # cpio does not skip the leading NUL bytes as the kernel does.
        subprocess.run(["cpio", "--extract", "--quiet"], input=data.lstrip(b"\0"), cwd=tmp_path, check=True)
        assert (tmp_path / "system.squashfs").read_bytes() == content


def test_archive_keeps_links_devices_and_programs(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    archive = Archive()
    archive.directory("bin")
    archive.file("bin/busybox", b"program", 0o755)
    archive.link("bin/sh", "busybox")
    archive.device("console", 0o600, 5, 1)
    data = archive.finish()
    listing = subprocess.run(
        ["cpio", "--list", "--verbose", "--quiet"], input=data, capture_output=True, check=True
    ).stdout.decode()
    lines = {line.split()[-1]: line for line in listing.splitlines()}
    assert lines["bin/busybox"].startswith("-rwxr-xr-x")
    assert "bin/sh -> busybox" in lines["busybox"]
    assert lines["console"].startswith("crw-------")
    assert " 5,   1 " in lines["console"]


def test_key_changes_with_content_name_and_mode(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = digest_of(tmp_path)
    (tmp_path / "a").write_text("2")
    second = digest_of(tmp_path)
    (tmp_path / "a").chmod(0o755)
    third = digest_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, third, digest_of(tmp_path)}) == 4


def test_key_separates_its_parts() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc")


def test_stage_is_built_once_and_old_results_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    calls: list[str] = []

    def build(result: Path) -> None:
        calls.append(result.name)
        (result / "file").write_text("x")

    first = cache.stage("layer", "k1", build)
    assert cache.stage("layer", "k1", build) == first
    assert len(calls) == 1
    for number, key in enumerate(("k2", "k3", "k4")):
        os.utime(cache.stage("layer", key, build), (number, number))
    cache.stage("layer", "k5", build, keep=2)
    assert len(list(cache.root.glob("layer-*"))) == 2


def test_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(result: Path) -> None:
        (result / "half").write_text("x")
        raise BuildError("no space")

    with pytest.raises(BuildError):
        cache.stage("system", "k", fail)
    assert [path.name for path in cache.root.iterdir()] == ["system.lock"]


def test_missing_tool_is_named_with_its_package() -> None:
    with pytest.raises(BuildError, match="not-a-tool is missing on this machine: apt install"):
        run(["not-a-tool"])


def test_failed_tool_shows_its_last_words() -> None:
    with pytest.raises(BuildError, match=r"ls failed with exit code \d+:(.|\n)*no-such-file"):
        run(["ls", "/no-such-file"])


def test_sources_of_the_host_get_the_needed_components(tmp_path: Path) -> None:
    place = tmp_path / "sources.list.d"
    place.mkdir()
    (place / "debian.sources").write_text(
        "Types: deb\n# a comment\nURIs: http://archive.example/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main\n\nTypes: deb\nURIs: http://archive.example/debian-security\nSuites: bookworm-security\n"
        "Components: main contrib\n"
    )
    (place / "other.sources").write_text("Types: deb\nURIs: http://other.example\nSuites: stable\nComponents: x\n")
    text = tree.host_sources(TreeOptions(), tmp_path)
    assert text is not None
    assert text.count("Components: main non-free-firmware") == 2
    assert "other.example" not in text
    assert tree.host_sources(TreeOptions(suite="trixie"), tmp_path) is None
    assert "non-free" not in (tree.host_sources(TreeOptions(firmware=False), tmp_path) or "")


def test_removal_takes_files_directories_and_links_but_not_their_targets(tmp_path: Path) -> None:
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/share/doc/x").mkdir(parents=True)
    (tmp_path / "usr/sbin/swapon").write_text("")
    (tmp_path / "usr/sbin/kept").write_text("")
    (tmp_path / "usr/sbin/fsck.ext4").symlink_to("kept")
    remove(tmp_path, ["usr/sbin/swapon", "usr/sbin/fsck*", "usr/share/doc", "usr/nothing"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["kept", "sbin", "share", "usr"]


@pytest.fixture
def layer_root(tmp_path: Path) -> Path:
    agent, wheels, root = tmp_path / "agent.pyz", tmp_path / "wheels", tmp_path / "root"
    agent.write_text("#!/usr/bin/env python3\n")
    wheels.mkdir()
    root.mkdir()
    with zipfile.ZipFile(wheels / "blake3-1.whl", "w") as wheel:
        wheel.writestr("blake3/__init__.py", "")
    layer.populate(root, agent, wheels)
    return root


def test_every_fence_entry_is_in_the_layer(layer_root: Path) -> None:
    units = layer_root / "etc/systemd/system"
    for unit in read_list("fence/masked-units.txt"):
        assert (units / unit).readlink() == Path("/dev/null")
    for rules in read_list("fence/masked-udev-rules.txt"):
        assert (layer_root / "etc/udev/rules.d" / rules).readlink() == Path("/dev/null")
    for path in (SOURCES / "fence/files").rglob("*"):
        if path.is_file():
            assert (layer_root / path.relative_to(SOURCES / "fence/files")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "unit", ["fstrim.timer", "lvm2-monitor.service", "blk-availability.service", "systemd-fsck@.service", "swap.target",
             "systemd-pstore.service", "getty@tty1.service", "serial-getty@ttyS0.service"],
)  # fmt: skip
def test_unit_that_writes_or_takes_a_console_is_masked(layer_root: Path, unit: str) -> None:
    assert (layer_root / "etc/systemd/system" / unit).readlink() == Path("/dev/null")


def test_nothing_enabled_is_masked(layer_root: Path) -> None:
    masked = set(read_list("fence/masked-units.txt"))
    for line in read_list("enabled-units.txt"):
        unit, target = line.split()
        assert unit not in masked
        assert (layer_root / "etc/systemd/system" / f"{target}.wants" / unit).is_symlink()


def test_agent_and_libraries_are_where_the_units_look(layer_root: Path) -> None:
    assert os.access(layer_root / "usr/bin/coldmig-agent", os.X_OK)
    assert (layer_root / "usr/lib/python3/dist-packages/blake3/__init__.py").is_file()
    assert (layer_root / "etc/resolv.conf").readlink() == Path("/run/coldmig/resolv.conf")


def test_disks_are_made_read_only_by_the_first_udev_rule(layer_root: Path) -> None:
    rules = sorted(path.name for path in (layer_root / "etc/udev/rules.d").iterdir())
    assert rules[0] == "00-coldmig-readonly.rules"
    assert "blockdev --setro" in (layer_root / "etc/udev/rules.d" / rules[0]).read_text()


def test_lvm_sees_no_disk_and_activates_nothing() -> None:
    text = (SOURCES / "fence/files/etc/lvm/lvm.conf").read_text()
    assert 'global_filter = [ "a|^/dev/mapper/|", "a|^/dev/loop|", "r|.*|" ]' in text
    assert "auto_activation_volume_list = []" in text


def test_menu_names_the_volume_and_carries_the_fence() -> None:
    text = image.grub_config("COLDMIG_2_0123456789ABCDEF")
    assert "coldmig.volume=COLDMIG_2_0123456789ABCDEF" in text
    assert "@" not in text.split("menuentry", 1)[1]
    for argument in ("noresume", "systemd.gpt_auto=0", "systemd.swap=0", "fstab=no"):
        assert f" {argument} " in text
    assert "rmmod tpm" in text


def test_volume_id_fits_the_descriptor_and_tells_the_format() -> None:
    volume = image.volume_id("ab" * 16)
    assert len(volume) <= 32
    assert volume == f"COLDMIG_{FORMAT}_ABABABABABABABAB"


def test_init_script_has_no_syntax_error() -> None:
    shell = ["busybox", "sh"] if shutil.which("busybox") else ["sh"]
    subprocess.run([*shell, "-n", SOURCES / "boot/init"], check=True)
