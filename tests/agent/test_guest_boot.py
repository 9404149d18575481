# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot loaders' menus: what is in them, what boots by itself, and that no text makes a reader fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from agent_lab import write_tree
from guest_lab import GRUB_HEAD, K, bzimage, elf, grub_entry, initramfs, newc, pe

from coldmig_agent.guest.boot import binary, grub, spec, syslinux, uki
from coldmig_agent.guest.boot.read import built_in, read_tree, wanted_images
from coldmig_agent.guest.rootfs import GuestRoot

MENU = (
    "menuentry 'Debian' --class debian $menuentry_id_option 'simple' {\n\tlinux /boot/vmlinuz-6 root=UUID=1 ro\n}\n"
    "submenu 'Advanced options' $menuentry_id_option 'advanced' {\n"
    "\tmenuentry 'Debian 6' $menuentry_id_option 'six' {\n\t\tlinux /boot/vmlinuz-6 root=UUID=1 ro\n\t}\n"
    "\tmenuentry 'Debian 5' $menuentry_id_option 'five' {\n\t\tlinux /boot/vmlinuz-5 root=UUID=1 ro\n\t}\n}\n"
    "menuentry 'Windows' $menuentry_id_option 'osprober' {\n\tchainloader +1\n}\n"
    'menuentry "Fedora" {\n\tlinux /boot/vmlinuz-7\n}\n'
)


def tree(path: Path, files: dict[str, str | bytes]) -> GuestRoot:
    return GuestRoot.at(write_tree(path, files))


@pytest.mark.parametrize(
    ("default", "kernel"),
    [
        ("0", "/boot/vmlinuz-6"),
        ("simple", "/boot/vmlinuz-6"),
        ("1>1", "/boot/vmlinuz-5"),
        ("Advanced options>Debian 5", "/boot/vmlinuz-5"),
        ("advanced>five", "/boot/vmlinuz-5"),
        ("advanced", "/boot/vmlinuz-6"),
        ("1", "/boot/vmlinuz-6"),
        ("2", ""),
        ("Fedora", "/boot/vmlinuz-7"),
        ("3", "/boot/vmlinuz-7"),
        ("five", "/boot/vmlinuz-6"),
        ("99", "/boot/vmlinuz-6"),
        ("", "/boot/vmlinuz-6"),
    ],
)
def test_grub_finds_its_default_by_number_title_identity_and_path(default: str, kernel: str) -> None:
    menu = grub.parse_grub(MENU)
    chosen = grub.choose(menu.items, default)
    assert chosen is not None
    assert menu.items[chosen].entry.kernel == kernel


def test_the_default_is_what_the_header_sets_and_not_what_failed_boots_would() -> None:
    counting = 'if [ "${boot_counter}" = "0" ]; then\n  set default=1\nfi\n'
    assert grub.parse_grub(GRUB_HEAD % "advanced>five" + counting + MENU).default == "advanced>five"
    assert grub.parse_grub('set default="0"\n' + GRUB_HEAD % "${saved_entry}" + MENU).default == grub.SAVED
    assert grub.parse_grub(MENU).default == "0"


def test_entries_are_counted_however_their_braces_stand() -> None:
    text = (
        "function savedefault {\n  if [ -z x ]; then\n    save_env saved_entry\n  fi\n}\n"
        "menuentry 'Firmware' --id fw { fwsetup }\nmenuentry 'A'\n{\n  linux /boot/vmlinuz-1\n}\n"
        "menuentry 'B' {\n  linux /boot/vmlinuz-2\n}\n"
    )
    items = grub.parse_grub(text).items
    assert [(item.position, item.entry.title, item.entry.kernel) for item in items] == [
        ((0,), "Firmware", ""),
        ((1,), "A", "/boot/vmlinuz-1"),
        ((2,), "B", "/boot/vmlinuz-2"),
    ]


def test_xen_boots_the_kernel_that_it_loads_as_a_module() -> None:
    menu = grub.parse_grub(
        "menuentry 'Debian, with Xen' {\n\tmultiboot2 /boot/xen-4.17.gz placeholder\n"
        "\tmodule2 /boot/vmlinuz-6.1.0 placeholder root=UUID=1 ro\n\tmodule2 --nounzip /boot/initrd.img-6.1.0\n}\n"
    )
    entry = menu.items[0].entry
    assert (entry.kernel, entry.initrds) == ("/boot/vmlinuz-6.1.0", ("/boot/initrd.img-6.1.0",))


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        (
            "search.fs_uuid 1234-AB root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n",
            "1234-AB",
        ),
        ("search --no-floppy --fs-uuid --set=dev 77aa\nset prefix=($dev)/grub2\nconfigfile $prefix/grub.cfg\n", "77aa"),
        ('search --fs-uuid --set=root 99\nset prefix=(${root})/@/boot/grub2\nsource "${prefix}/grub.cfg"\n', "99"),
    ],
)
def test_the_stub_on_an_esp_says_where_the_menu_is(text: str, volume: str) -> None:
    stub = grub.parse_stub(text, "/EFI/x/grub.cfg")
    assert stub is not None
    assert stub.volume == volume
    assert stub.prefix.startswith("/")


def test_grub_legacy_counts_entries_and_knows_the_saved_one() -> None:
    text = (
        "default=1\ntimeout=5\nhiddenmenu\ntitle Other\n\trootnoverify (hd0,0)\n\tchainloader +1\n"
        "title CentOS (2.6.32-754.el6.x86_64)\n\troot (hd0,0)\n"
        "\tkernel /vmlinuz-2.6.32-754.el6.x86_64 ro root=/dev/mapper/vg-root\n"
        "\tinitrd /initramfs-2.6.32-754.el6.x86_64.img\n"
    )
    default, entries = grub.parse_legacy(text, "")
    assert default == 1
    assert entries[1].version == "2.6.32-754.el6.x86_64"
    assert entries[1].initrds == ("/initramfs-2.6.32-754.el6.x86_64.img",)
    assert entries[0].chain == "+1"
    assert grub.parse_legacy(text.replace("default=1", "default saved"), "1\n#\n")[0] == 1


def specs(*rows: tuple[str, str, str]) -> list[spec.Spec]:
    made = [
        spec.parse_entry(f"title {name}\nversion {version}\nsort-key {key}\nlinux /k\n", f"{name}.conf")
        for name, version, key in rows
    ]
    return [item for item in made if item is not None]


def test_systemd_boot_takes_what_loader_conf_names_else_the_newest() -> None:
    found = spec.systemd_order(specs(("arch-1", "6.1", ""), ("arch-2", "6.10", ""), ("arch-3", "6.9", "")))
    assert [item.name for item in found] == ["arch-2", "arch-3", "arch-1"]
    assert spec.systemd_default(found, "") == 0
    assert spec.systemd_default(found, "default arch-1.conf\n") == 2
    assert spec.systemd_default(found, "default *-3\n") == 1
    assert spec.systemd_default(found, "default @saved\n") == 0
    assert spec.systemd_default([], "default x\n") is None


def test_an_entry_whose_tries_are_used_up_comes_last() -> None:
    rows = [
        spec.parse_entry("title A\nversion 6.10\nlinux /k\n", "a+0-3.conf"),
        spec.parse_entry("title B\nversion 6.1\nlinux /k\n", "b+2-1.conf"),
    ]
    found = spec.systemd_order([item for item in rows if item is not None])
    assert [item.name for item in found] == ["b", "a"]


def test_syslinux_paths_start_at_its_directory() -> None:
    text = (
        "DEFAULT menu.c32\nPROMPT 0\nLABEL old\n  KERNEL ../vmlinuz-5\n  APPEND root=UUID=1 initrd=../initrd-5\n"
        "LABEL new\n  MENU DEFAULT\n  MENU LABEL ^New one\n  LINUX /vmlinuz-6\n  INITRD /initrd-6\n"
        "  APPEND root=UUID=1\n"
    )
    default, entries = syslinux.parse_syslinux(text, "/boot/extlinux")
    assert default == 1
    assert entries[0].kernel == "/boot/vmlinuz-5"
    assert entries[0].initrds == ("/boot/initrd-5",)
    assert (entries[1].title, entries[1].kernel, entries[1].initrds) == ("New one", "/vmlinuz-6", ("/initrd-6",))


def test_a_kernel_tells_its_version_and_bits() -> None:
    assert binary.kernel_header(bzimage("6.9.1-arch1-1")) == binary.Kernel("6.9.1-arch1-1", "x86_64")
    assert binary.kernel_header(bzimage("3.2.0-4-686-pae", bits=32)) == binary.Kernel("3.2.0-4-686-pae", "i386")
    assert binary.kernel_header(b"MZ" + bytes(5000)) is None
    head = bytearray(bzimage("6"))
    head[0x20E:0x210] = b"\xff\xff"
    assert binary.kernel_header(bytes(head)) == binary.Kernel(None, "x86_64")


def test_programs_tell_what_they_are_made_for(tmp_path: Path) -> None:
    root = tree(tmp_path, {"/a": elf(62), "/b": elf(3), "/c": elf(183), "/d": b"#!/bin/sh\n", "/e": b"\x7fELF"})
    assert [binary.elf_arch(root, f"/{name}") for name in "abcdef"] == ["x86_64", "i386", "aarch64", None, None, None]


def test_sections_that_lie_outside_of_the_file_are_left_out(tmp_path: Path) -> None:
    whole = pe({".cmdline": b"root=1", ".linux": bzimage("6.1"), ".initrd": initramfs()})
    root = tree(
        tmp_path, {"/whole.efi": whole, "/cut.efi": whole[:0x1800], "/none.efi": b"MZ" + bytes(4000), "/mz": b"MZ"}
    )
    found = uki.read_uki(root, "/whole.efi")
    assert found is not None
    assert found.entry.options == "root=1"
    assert found.kernel.version == "6.1"
    for name in ("/cut.efi", "/none.efi", "/mz", "/absent"):
        cut = uki.read_uki(root, name)
        assert cut is None or cut.initrd is None


def test_which_loader_a_file_is_can_be_told(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/sd": b"MZ..#### LoaderInfo: systemd-boot 255 ####",
        "/shim": b"MZ..UEFI SHIM..",
        "/grub": b"MZ..GRUB  ..",
        "/win": b"MZ" + "bootmgfw.efi".encode("utf-16-le"),
        "/refind": b"MZ" + "rEFInd".encode("utf-16-le"),
        "/x": b"MZ",
        "/uki": pe({".linux": b"x", ".initrd": b"y"}),
    }
    root = tree(tmp_path, files)
    assert [binary.loader_kind(root, name) for name in files] == [
        "systemd-boot",
        "shim",
        "grub",
        "windows",
        "refind",
        "other",
        "uki",
    ]
    assert binary.loader_kind(root, "/absent") == ""


def test_the_kernels_of_a_boot_without_a_menu_come_newest_first(tmp_path: Path) -> None:
    names = ["5.10.0-9-amd64", "5.10.0-21-amd64", "0-rescue-abc"]
    files = {f"/boot/vmlinuz-{name}": bzimage(name) for name in names}
    files |= {f"/boot/initrd.img-{name}": initramfs((), name) for name in names}
    found = read_tree(tree(tmp_path, dict(files)), "/boot")
    (menu,) = found.boots
    assert (menu.loader, menu.default) == ("files", None)
    assert [entry.version for entry in menu.entries] == ["5.10.0-21-amd64", "5.10.0-9-amd64", "0-rescue-abc"]
    assert wanted_images(found.boots)[0] == ("/boot/initrd.img-5.10.0-21-amd64",)


def test_an_initramfs_that_lies_elsewhere_than_named_is_found_by_its_version(tmp_path: Path) -> None:
    entry = grub_entry("Debian", f"/vmlinuz-{K}", "/no/such/initrd", "root=UUID=1")
    files: dict[str, str | bytes] = {
        "/boot/grub/grub.cfg": GRUB_HEAD % "0" + entry,
        f"/boot/vmlinuz-{K}": bzimage(K),
        f"/boot/initrd.img-{K}": newc({}),
    }
    (menu,) = read_tree(tree(tmp_path, files), "/boot").boots
    assert menu.entries[0].images == (f"/boot/initrd.img-{K}",)
    assert menu.entries[0].kernel_found


def test_the_settings_of_a_kernel_tell_what_is_built_in() -> None:
    text = "CONFIG_SCSI=y\nCONFIG_BLK_DEV_SD=m\nCONFIG_ATA_PIIX=y\n# CONFIG_VMWARE_PVSCSI is not set\nCONFIG_FUSION=m\n"
    assert built_in(text) == ("ata_piix", "scsi_mod")


def test_no_text_makes_a_reader_of_menus_fail() -> None:
    chance = random.Random(1)
    words = [
        "menuentry 'x' {",
        "submenu",
        "}",
        "{",
        "linux /k",
        "initrd",
        "set default=",
        "title",
        "kernel",
        "default",
        "label",
        "append",
        "menu label",
        "search",
        "blscfg",
        "module",
        "\0",
        "a" * 9000,
        "'",
        '"',
        "0>0>0",
        "if",
        "version",
    ]
    for _ in range(300):
        text = "\n".join(" ".join(chance.choices(words, k=3)) for _ in range(20))
        menu = grub.parse_grub(text)
        grub.choose(menu.items, chance.choice(words))
        grub.parse_stub(text, "/x")
        grub.parse_legacy(text, text)
        grub.parse_grubenv(text, "/x")
        syslinux.parse_syslinux(text, "/x")
        spec.parse_entry(text, "x.conf")


def test_a_menu_with_very_many_entries_is_cut_but_keeps_the_default(tmp_path: Path) -> None:
    entries = "".join(f"menuentry 'e{n}' {{\nlinux /boot/vmlinuz-{n}\n}}\n" for n in range(700))
    (menu,) = read_tree(tree(tmp_path, {"/boot/grub/grub.cfg": GRUB_HEAD % "300" + entries}), "/boot").boots
    assert len(menu.entries) == 64
    assert menu.default is not None
    assert menu.entries[menu.default].title == "e300"


def test_no_bytes_make_a_reader_of_headers_fail(tmp_path: Path) -> None:
    chance = random.Random(3)
    whole = pe({".cmdline": b"root=1", ".linux": bzimage("6.1"), ".initrd": initramfs(("nvme",))})
    path = tmp_path / "a.efi"
    for _ in range(150):
        data = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(1, 20)):
            if data:
                data[chance.randrange(min(len(data), 600))] = chance.randrange(256)
        path.write_bytes(data)
        with GuestRoot.at(tmp_path) as root:
            uki.read_uki(root, "/a.efi")
            uki.read_initrd(root, "/a.efi#.initrd", float("inf"))
            binary.loader_kind(root, "/a.efi")
            binary.read_kernel(root, "/a.efi")
            binary.elf_arch(root, "/a.efi")
        binary.kernel_header(bytes(data))
