# SPDX-License-Identifier: GPL-3.0-or-later
"""Patching the slots of an image: what changes, what must not, and what is said about files that are no base ISO."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils import _iso_image
from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import (
    ConfigError,
    IsoImageError,
    NotABaseImageError,
    SlotError,
    build_args_slot,
    build_config_slot,
    inspect_iso,
    newc_archive,
    newc_members,
    read_slot,
    validate_config,
    write_iso,
)
from coldmig_iso import FORMAT
from coldmig_iso.image import volume_id

from .small_image import make_iso

VOLUME = volume_id("0123456789abcdef0000")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_iso(tmp_path_factory.mktemp("iso") / "base.iso", VOLUME)


def differing(one: bytes, other: bytes) -> tuple[int, int]:
    places = [index for index, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return places[0], places[-1] + 1


def test_base_iso_is_not_configured(pristine: Path) -> None:
    info = inspect_iso(pristine)
    assert (info.volume_id, info.format, info.build_id) == (VOLUME, FORMAT, "0123456789ABCDEF")
    assert info.config is None
    assert info.kernel_args == []


def test_configuration_and_arguments_read_back(pristine: Path, tmp_path: Path, site_config: dict[str, Any]) -> None:
    dest = tmp_path / "erp.iso"
    info = write_iso(pristine, dest, site_config, ["net.ifnames=0"])
    assert info.config == validate_config(site_config)
    assert info.kernel_args == ["net.ifnames=0"]
    assert read_slot(dest) == info.config
    assert dest.stat().st_mode & 0o777 == 0o600
    assert read_slot(pristine) is None


def test_only_the_slots_change(pristine: Path, tmp_path: Path, site_config: dict[str, Any]) -> None:
    dest = tmp_path / "erp.iso"
    write_iso(pristine, dest, site_config)
    before, after = pristine.read_bytes(), dest.read_bytes()
    first, last = differing(before, after)
    layout = _iso_image._read_layout(pristine)
    ranges = sorted((slot.offset, slot.offset + slot.length) for slot in layout.slots.values())
    assert ranges[0][0] <= first
    assert last <= ranges[-1][1]
    kept = bytearray(after)
    for start, end in ranges:
        kept[start:end] = before[start:end]
    assert bytes(kept) == before


def test_same_configuration_gives_the_same_bytes(pristine: Path, tmp_path: Path, site_config: dict[str, Any]) -> None:
    one, two = tmp_path / "one.iso", tmp_path / "two.iso"
    write_iso(pristine, one, site_config)
    write_iso(pristine, two, dict(reversed(list(site_config.items()))))
    assert one.read_bytes() == two.read_bytes()


def test_replacing_leaves_no_trace_of_a_longer_configuration(
    pristine: Path, tmp_path: Path, site_config: dict[str, Any]
) -> None:
    dest = tmp_path / "erp.iso"
    long = {**site_config, "template": {**site_config["template"], "name": "x" * 255}}
    write_iso(pristine, dest, long, ["a" * 150])
    write_iso(pristine, dest, site_config)
    fresh = tmp_path / "fresh.iso"
    write_iso(pristine, fresh, site_config)
    assert dest.read_bytes() == fresh.read_bytes()


def test_wrong_configuration_writes_nothing(pristine: Path, tmp_path: Path, site_config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        write_iso(pristine, tmp_path / "erp.iso", {**site_config, "credential": "x"})
    assert list(tmp_path.iterdir()) == []


def test_failure_after_the_copy_leaves_the_old_file(
    pristine: Path, tmp_path: Path, site_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "erp.iso"
    dest.write_bytes(b"old")

    def full(_source: Any, _dest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_iso_image, "_copy", full)
    with pytest.raises(IsoImageError, match="No space left"):
        write_iso(pristine, dest, site_config)
    assert [path.name for path in tmp_path.iterdir()] == ["erp.iso"]
    assert dest.read_bytes() == b"old"


def test_base_itself_is_never_the_destination(pristine: Path, site_config: dict[str, Any]) -> None:
    with pytest.raises(IsoImageError, match="base ISO itself"):
        write_iso(pristine, pristine, site_config)


def test_configuration_that_is_too_large_names_both_sizes(site_config: dict[str, Any]) -> None:
    with pytest.raises(SlotError, match=r"needs \d+ bytes and the image reserves 512"):
        build_config_slot(validate_config(site_config), 512)


@pytest.mark.parametrize(
    ("section", "value", "advice"),
    [
        ("site", {"ca_pem": "x" * 900}, "shorten site.ca_pem"),
        ("machines", ["x" * 900], "give the machines to several ISOs"),
        ("banner", "x" * 900, r"shorten banner \(banner takes 902"),
    ],
)
def test_configuration_that_is_too_large_names_its_largest_part(section: str, value: Any, advice: str) -> None:
    with pytest.raises(SlotError, match=advice):
        build_config_slot({"template": "small", section: value}, 512)


def test_damaged_slot_is_told_from_an_empty_one(pristine: Path, tmp_path: Path) -> None:
    dest = tmp_path / "damaged.iso"
    shutil.copy(pristine, dest)
    slot = _iso_image._read_layout(dest).slots[_iso_image.CONFIG_SLOT]
    with dest.open("r+b") as image:
        image.seek(slot.offset)
        image.write(b"rubbish")
    with pytest.raises(SlotError, match="no newc header"):
        read_slot(dest)


@pytest.mark.parametrize(
    ("volume", "slots", "words"),
    [
        ("DEBIAN_12", True, "not that of a base ISO"),
        ("COLDMIG_9_0123456789ABCDEF", True, f"format 9, this version patches format {FORMAT}"),
        (VOLUME, False, "has no file /live/config.img"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, pristine: Path, volume: str, slots: bool, words: str) -> None:
    image = make_iso(tmp_path / "other.iso", volume, slots=slots)
    with pytest.raises(NotABaseImageError, match=words):
        inspect_iso(image)


def test_a_file_that_is_no_iso_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.iso"
    path.write_text("no image")
    with pytest.raises(NotABaseImageError, match="no ISO 9660 image"):
        inspect_iso(path)
    with pytest.raises(IsoImageError, match="cannot be read"):
        inspect_iso(tmp_path / "missing.iso")


def test_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    if shutil.which("cpio") is None:
        pytest.skip("cpio is not installed")
    archive = newc_archive([("config", 0o040700, b""), ("config/a.json", 0o100600, b"{}"), ("odd", 0o100644, b"12345")])
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "config/a.json").read_bytes() == b"{}"
    assert (tmp_path / "config/a.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "odd").read_bytes() == b"12345"


def test_archive_members_come_back() -> None:
    members = [("config", 0o040700, b""), ("config/coldmig.json", 0o100600, b'{"format": 1}')]
    assert list(newc_members(newc_archive(members) + bytes(100))) == members


@pytest.mark.parametrize("cut", [1, 60, 111, 130])
def test_truncated_archive_is_an_error(cut: int) -> None:
    archive = newc_archive([("config/coldmig.json", 0o100600, b"{}" * 20)])
    with pytest.raises(SlotError):
        list(newc_members(archive[:cut]))


def test_menu_names_the_template_and_nothing_in_its_name_is_script(site_config: dict[str, Any]) -> None:
    hostile = {**site_config, "template": {"id": "7d1f", "name": '$(x)"; reboot\u00e4;', "organization": "acme"}}
    text = build_args_slot(validate_config(hostile), [], 8192).decode()
    assert 'set coldmig_template="??x??? reboot?? of acme"\n' in text
    long = {**site_config, "template": {"id": "7d1f", "name": "x" * 200, "organization": "acme"}}
    assert f'set coldmig_template="{"x" * 32}"\n' in build_args_slot(validate_config(long), [], 8192).decode()


def test_images_made_at_once_do_not_disturb_each_other(
    pristine: Path, tmp_path: Path, site_config: dict[str, Any]
) -> None:
    """Real processes: most for files of their own, some for one and the same file."""
    script = (
        "import json, sys\n"
        "from ansible_collections.cda.coldmig.plugins.module_utils._iso_image import write_iso\n"
        "base, dest, config = sys.argv[1:4]\n"
        "for _ in range(5):\n"
        "    write_iso(base, dest, json.loads(config))\n"
    )
    destinations = [*(f"t{number}.iso" for number in range(4)), "shared.iso", "shared.iso"]
    configs = [
        {**site_config, "template": {"id": str(number), "name": name, "organization": "acme"}}
        for number, name in enumerate(destinations)
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", script, pristine, tmp_path / name, json.dumps(config)], env=environment)
        for name, config in zip(destinations, configs, strict=True)
    ]
    assert [process.wait() for process in running] == [0] * len(running)
    for name, config in zip(destinations[:4], configs[:4], strict=True):
        assert read_slot(tmp_path / name) == validate_config(config)
    # The last one won, whole.
    assert read_slot(tmp_path / "shared.iso") in [validate_config(config) for config in configs[4:]]
    assert {path.name for path in tmp_path.iterdir()} == set(destinations)
    assert read_slot(pristine) is None
