# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider adds to the image: checked before anything is built, a part of the key, never against the fence."""

from __future__ import annotations

from pathlib import Path

import pytest
from coldmig_iso import cli, extras, firmware, layer, pipeline, tree
from coldmig_iso.cache import Cache
from coldmig_iso.extras import ExtraFile, Extras
from coldmig_iso.pipeline import BuildOptions
from coldmig_iso.run import BuildError
from coldmig_iso.tree import TreeOptions

DEPENDENCIES = {
    "kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko": ["kernel/net/wireless/cfg80211.ko"],
    "kernel/net/wireless/cfg80211.ko": [],
    "kernel/drivers/md/md-mod.ko": [],
    "updates/vendor.ko": [],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("from the provider")
    return path


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Extras(packages=("Firmware_X",)), "not the name of a Debian package"),
        (Extras(packages=("x; reboot",)), "not the name of a Debian package"),
        (Extras(packages=("multipath-tools",)), "would break the promise"),
        (Extras(packages=("zfsutils-linux",)), "would break the promise"),
        (Extras(modules=("../x",)), "give a name"),
        (Extras(modules=("/nowhere/vendor.ko",)), "no such file on the build host"),
        (Extras(boot_modules=("/tmp/raid456.ko",)), "writes to disks on its own account"),
        (Extras(firmware=("../../etc/shadow",)), "below /usr/lib/firmware"),
        (Extras(firmware=("/lib/firmware/x",)), "below /usr/lib/firmware"),
        (Extras(files=(ExtraFile(Path("/nowhere"), "/etc/x"),)), "no such file on the build host"),
    ],
)
def test_wrong_additions_are_refused_before_anything_is_built(
    tmp_path: Path, wrong: Extras, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "build_tree", lambda *_: pytest.fail("was built"))
    with pytest.raises(BuildError, match=words):
        pipeline.build(BuildOptions(extras=wrong), Cache(tmp_path), print)


@pytest.mark.parametrize(
    ("dest", "words"),
    [
        ("etc/x", "absolute path"),
        ("/etc/../sbin/x", "absolute path"),
        ("/run/x", "is empty at its start"),
        ("/lib/modules/6.1/x.ko", "give kernel modules as modules"),
        ("/sbin/swapon", "read-only fence"),
        ("/usr/sbin/mkfs.ext4", "read-only fence"),
        ("/usr/lib/systemd/system-generators/mine", "read-only fence"),
        ("/etc/systemd/system/fstrim.timer", "read-only fence"),
        ("/lib/systemd/system/fstrim.timer", "read-only fence"),
        ("/etc/systemd/system/fstrim.timer.d/on.conf", "read-only fence"),
        ("/etc/udev/rules.d/64-md-raid-assembly.rules", "read-only fence"),
        ("/etc/modprobe.d/md.conf", "read-only fence"),
        ("/etc/lvm/lvmlocal.conf", "read-only fence"),
    ],
)
def test_files_that_would_undo_the_fence_are_refused(source: Path, dest: str, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        Extras(files=(ExtraFile(source, dest),)).check()


@pytest.mark.parametrize(
    "dest", ["/etc/udev/rules.d/00-coldmig-readonly.rules", "/usr/bin/coldmig-agent", "/etc/hosts", "/etc/fstab"]
)
def test_nothing_of_the_live_system_can_be_replaced(source: Path, tmp_path: Path, dest: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "wheels").mkdir()
    wanted = Extras(files=(ExtraFile(source, dest),))
    with pytest.raises(BuildError, match="cannot be replaced"):
        layer.populate(root, source, tmp_path / "wheels", wanted)


def test_files_arrive_with_their_mode_behind_the_links_of_the_merged_tree(source: Path, tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    root = tmp_path / "root"
    wanted = Extras(files=(ExtraFile(source, "/etc/motd.d/provider"), ExtraFile(program, "/sbin/provider-tool")))
    wanted.check()
    wanted.copy_files(root)
    assert (root / "etc/motd.d/provider").read_text() == "from the provider"
    assert (root / "etc/motd.d/provider").stat().st_mode & 0o777 == 0o644
    assert (root / "usr/sbin/provider-tool").stat().st_mode & 0o777 == 0o755
    assert not (root / "sbin").exists()


def test_modules_are_found_by_name_and_by_pattern() -> None:
    wireless = "kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko"
    assert extras.module_patterns(DEPENDENCIES, ["iwlwifi"]) == [wireless]
    assert extras.module_patterns(DEPENDENCIES, ["kernel/drivers/net/wireless/*"]) == [wireless]
    assert extras.module_patterns(DEPENDENCIES, ["/somewhere/vendor.ko"]) == ["updates/vendor.ko"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("iwlwfi", "kernel has none"), ("kernel/x/*", "kernel has none"), ("md_mod", "writes to disks")],
)
def test_modules_that_are_not_there_or_forbidden_are_named(name: str, words: str) -> None:
    with pytest.raises(BuildError, match=words):
        extras.module_patterns(DEPENDENCIES, [name])


def test_module_file_for_another_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr/lib/modules/6.1.0-56-amd64").mkdir(parents=True)
    module = tmp_path / "vendor.ko"
    module.write_bytes(b"")
    monkeypatch.setattr(extras, "run", lambda _command: "5.10.0-1-amd64 SMP mod_unload modversions\n")
    with pytest.raises(BuildError, match=r"built for kernel 5\.10\.0-1-amd64, the image has 6\.1\.0-56-amd64"):
        extras.add_module_files(tmp_path, [module])


def test_firmware_that_no_module_names_stays_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "usr/lib/firmware/vendor"
    root.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (root / name).write_text("x")
    monkeypatch.setattr(firmware, "wanted_firmware", lambda _tree: set())
    firmware.prune(tmp_path, ["vendor/a*"])
    assert [path.name for path in root.iterdir()] == ["a.bin"]
    with pytest.raises(BuildError, match="no package of the image has such a file"):
        firmware.prune(tmp_path, ["vendor/c*"])


def test_package_that_another_one_brings_along_is_refused() -> None:
    with pytest.raises(BuildError, match="package udisks2: would break"):
        extras.refuse_packages(["bash", "udisks2"])
    extras.refuse_packages(tree.packages(TreeOptions()))


def test_every_addition_is_a_part_of_the_key(source: Path, tmp_path: Path) -> None:
    module = tmp_path / "vendor.ko"
    module.write_bytes(b"one")
    assert tree.packages(TreeOptions(extra_packages=("tcpdump", "kmod")))[-1] == "tcpdump"
    keys = [
        Extras().system_key(),
        Extras(modules=("a",)).system_key(),
        Extras(boot_modules=("a",)).system_key(),
        Extras(firmware=("a",)).system_key(),
        Extras(modules=(str(module),)).system_key(),
    ]
    module.write_bytes(b"two")
    keys.append(Extras(modules=(str(module),)).system_key())
    assert len(set(keys)) == len(keys)

    def layer_key(dest: str) -> str:
        return Extras(files=(ExtraFile(source, dest),)).layer_key()

    files = [Extras().layer_key(), layer_key("/etc/a"), layer_key("/etc/b")]
    source.write_text("changed")
    files.append(layer_key("/etc/a"))
    source.chmod(0o755)
    files.append(layer_key("/etc/a"))
    assert len(set(files)) == len(files)


def test_command_line_takes_all_additions(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BuildOptions] = []

    def stop(options: BuildOptions, *_: object) -> None:
        seen.append(options)
        raise BuildError("enough")

    monkeypatch.setattr(cli, "build", stop)
    words = ["--package=tcpdump", "--module=iwlwifi", "--boot-module=megaraid", "--firmware-file=x/*"]
    assert cli.main(["build", *words, "--package=less", f"--file={source}:/etc/note"]) == 1
    assert seen[0].extras == Extras(
        packages=("tcpdump", "less"),
        modules=("iwlwifi",),
        boot_modules=("megaraid",),
        firmware=("x/*",),
        files=(ExtraFile(source, "/etc/note"),),
    )
