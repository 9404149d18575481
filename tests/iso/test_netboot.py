# SPDX-License-Identifier: GPL-3.0-or-later
"""Files to boot from the network: what is written, what is shared, what stays secret, what goes again."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_netboot
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import (
    IsoImageError,
    newc_members,
    validate_config,
    write_iso,
)
from coldmig_iso.image import kernel_arguments, volume_id

from .small_image import LIVE, make_iso

VOLUME = volume_id("0123456789abcdef0000")
OTHER = volume_id("fedcba98765432100000")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_iso(tmp_path_factory.mktemp("iso") / "base.iso", VOLUME)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    path = tmp_path / "http"
    path.mkdir()
    return path


@pytest.fixture
def config(site_config: dict[str, Any]) -> dict[str, Any]:
    return validate_config(site_config)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_of_a_template_are_written_once(base: Path, served: Path, config: dict[str, Any]) -> None:
    files = _iso_netboot.plan(base, served, "erp", config, ["net.ifnames=0"])
    assert not files.is_there()
    files.write()
    assert files.is_there()
    for name, content in LIVE.items():
        assert (served / VOLUME / name).read_bytes() == content
        assert mode(served / VOLUME / name) == 0o644
    assert mode(served / VOLUME) == 0o755
    assert {path.name for path in served.iterdir()} == {VOLUME, "erp.ipxe", "erp.img", ".coldmig.lock"}
    # The template's ISO serves as well as the base: it is the same files.
    dest = served.parent / "erp.iso"
    write_iso(base, dest, config, ["net.ifnames=0"])
    assert _iso_netboot.plan(dest, served, "erp", config, ["net.ifnames=0"]).is_there()


def test_credential_is_in_the_configuration_alone_and_only_its_owner_reads_it(
    base: Path, served: Path, config: dict[str, Any]
) -> None:
    _iso_netboot.plan(base, served, "erp", config, []).write()
    assert mode(served / "erp.img") == 0o600
    assert [name for name, _mode, _data in newc_members((served / "erp.img").read_bytes())] == [
        "config",
        "config/coldmig.json",
    ]
    secret = config["credential"].encode()
    assert [path.name for path in sorted(served.rglob("*")) if path.is_file() and secret in path.read_bytes()] == [
        "erp.img"
    ]


def test_script_has_the_arguments_of_the_menu_and_names_every_file(
    base: Path, served: Path, config: dict[str, Any]
) -> None:
    files = _iso_netboot.plan(base, served, "erp", config, ["net.ifnames=0"])
    lines = files.script_text.splitlines()
    assert lines[0] == "#!ipxe"
    assert lines[1] == f"echo Cold migration, image {VOLUME}, erp of acme"
    kernel = lines[2].split()
    assert kernel[:2] == ["kernel", f"{VOLUME}/vmlinuz"]
    assert " ".join(kernel[2:]).startswith(kernel_arguments(VOLUME) + " console=ttyS0,115200n8 console=tty0")
    assert "net.ifnames=0" in kernel
    # With UEFI the kernel asks for what its arguments name, with BIOS it gets what was loaded, in the same order.
    loaded = [line.split() for line in lines if line.startswith("initrd ")]
    assert [f"initrd={words[2]}" for words in loaded] == [word for word in kernel if word.startswith("initrd=")]
    files.write()
    for words in loaded:
        assert (served / words[3]).is_file()
        assert words[3].rsplit("/", 1)[-1] == words[2]
    assert lines[-1] == "boot"
    assert "://" not in files.script_text


def test_templates_share_a_base_until_the_last_one_goes(base: Path, served: Path, config: dict[str, Any]) -> None:
    _iso_netboot.plan(base, served, "erp", config, []).write()
    before = (served / VOLUME / "system.cpio").stat().st_ino
    _iso_netboot.plan(base, served, "crm", config, []).write()
    assert (served / VOLUME / "system.cpio").stat().st_ino == before
    other = make_iso(served.parent / "other.iso", OTHER)
    _iso_netboot.plan(other, served, "web", config, []).write()
    (served / "mine").mkdir()
    assert _iso_netboot.remove(served, "erp", check_mode=True)
    assert (served / "erp.img").exists()
    assert _iso_netboot.remove(served, "erp")
    assert (served / VOLUME).is_dir()
    assert _iso_netboot.remove(served, "crm")
    assert not (served / VOLUME).exists()
    assert (served / OTHER).is_dir()
    assert (served / "mine").is_dir()
    assert not _iso_netboot.remove(served, "crm")


def test_changed_or_missing_files_are_seen(base: Path, served: Path, config: dict[str, Any]) -> None:
    files = _iso_netboot.plan(base, served, "erp", config, [])
    files.write()
    files.config.chmod(0o644)
    assert not files.is_there()
    files.write()
    assert files.is_there()
    assert not _iso_netboot.plan(base, served, "erp", config, ["net.ifnames=0"]).is_there()
    renewed = {**config, "credential": "cm1_iso_" + "B" * 43}
    assert not _iso_netboot.plan(base, served, "erp", renewed, []).is_there()


@pytest.mark.parametrize("name", ["a b", "../erp", "", ".erp", "erp?x", "\u00e4"])
def test_names_that_no_address_can_carry_are_refused(
    base: Path, served: Path, config: dict[str, Any], name: str
) -> None:
    with pytest.raises(IsoImageError, match="cannot name files"):
        _iso_netboot.plan(base, served, name, config, [])


def test_missing_directory_is_named(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(IsoImageError, match="is no directory"):
        _iso_netboot.plan(base, tmp_path / "missing", "erp", config, [])


def test_failed_copy_leaves_nothing_behind(
    base: Path, served: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _iso_netboot.plan(base, served, "erp", config, [])
    monkeypatch.setattr(_iso_netboot, "INITRDS", (*_iso_netboot.INITRDS, "not-there"))
    with pytest.raises(IsoImageError, match="has no file /live/not-there"):
        files.write()
    assert [path.name for path in served.iterdir()] == [".coldmig.lock"]
