# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a Linux guest that hold for this machine only: names of disks and network cards that will change.

What is bound to a MAC address stays right, because the new machine's cards keep the addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from coldmig_agent.guest.assignments import lines, parse_assignments
from coldmig_agent.guest.facts import MAX_MOUNTS, MAX_NAMES, Bound, MountLine
from coldmig_agent.guest.rootfs import GuestRoot
from coldmig_agent.text import clean

#: Names under which a disk stands today and not at the destination. Identities of LVM, md and dm stay.
OLD_NAMES = re.compile(
    r"/dev/(?:[hsv]d[a-z]{1,3}\d*|xvd[a-z]{1,3}\d*|nvme\d+n\d+(?:p\d+)?|cciss/\S+"
    r"|disk/by-path/[^\s,\"']+|disk/by-id/(?!dm-|md-|lvm-)[^\s,\"']+)(?![\w-])"
)
_MAX_TEXT = 1 << 16
_MAX_FILES = 64
#: Cards that the system makes itself.
_VIRTUAL = re.compile(r"^(?:lo|bond|br|virbr|docker|veth|team|vlan|tun|tap|dummy|wg|ib|wl|ww|ppp|sit|vmbr|ovs)|[.:@]")
_GLOB = re.compile(r"[*?\[]")


def old_names(text: str) -> tuple[str, ...]:
    """Names of disks in a text, without comments."""
    plain = (line for line in lines(text) if not line.startswith("#"))
    return tuple(dict.fromkeys(clean(name, 80) for line in plain for name in OLD_NAMES.findall(line)))


def parse_fstab(text: str) -> tuple[MountLine, ...]:
    """Lines of an fstab; ``\\040`` stands for a space."""
    found: list[MountLine] = []
    for line in lines(text):
        words = [re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8) & 0xFF), word) for word in line.split()]
        if len(words) < 3 or words[0].startswith("#") or len(found) >= MAX_MOUNTS:
            continue
        options = words[3].split(",") if len(words) > 3 else []
        subvolume = next((item.partition("=")[2] for item in options if item.startswith("subvol=")), "")
        found.append(
            MountLine(
                spec=clean(words[0].strip("\"'"), 160),
                mountpoint=clean(words[1], 160),
                fstype=clean(words[2], 32),
                subvolume=clean(subvolume.strip("/"), 160),
                optional=bool({"noauto", "nofail"} & set(options)),
            )
        )
    return tuple(found)


def _disk_names(root: GuestRoot) -> Iterator[Bound]:
    for path in ("/etc/fstab", "/etc/crypttab", "/etc/initramfs-tools/conf.d/resume"):
        text = root.text(path, _MAX_TEXT) or ""
        if path == "/etc/fstab":
            text = "\n".join(line for line in lines(text) if not re.search(r"[\s,]noauto(?:[\s,]|$)", line))
        for name in old_names(text):
            yield Bound("device", name, path)


def _lvm(root: GuestRoot) -> Iterator[Bound]:
    path = "/etc/lvm/devices/system.devices"
    for line in lines(root.text(path, _MAX_TEXT) or ""):
        values = dict(word.split("=", 1) for word in line.split() if "=" in word)
        kind, name = values.get("IDTYPE", ""), values.get("IDNAME", "")
        # Identities that LVM finds again wherever the disk is.
        if kind and kind not in {"md_uuid", "crypt_uuid", "lvmlv_uuid"}:
            yield Bound("lvm-devices", clean(f"{kind} {name}", 120), path)
    path = "/etc/lvm/lvm.conf"
    text = re.sub(r"(?m)#.*$", "", root.text(path, 1 << 18) or "")
    for found in re.findall(r"\b(?:global_)?filter\s*=\s*\[([^\]]{0,2048})\]", text):
        for name in old_names(found.replace("|", " ").replace("$", " ").replace("^", " ")):
            yield Bound("device", name, path)


def _multipath(root: GuestRoot) -> Iterator[Bound]:
    path = "/etc/multipath.conf"
    text = re.sub(r"(?m)[#!].*$", "", root.text(path, _MAX_TEXT) or "")
    if found := re.search(r"\bfind_multipaths\s+\"?(no|off|greedy)\b", text):
        yield Bound("multipath", f"find_multipaths {found[1]}", path)


def _files(root: GuestRoot, directory: str, suffix: str = "", prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in root.names(directory)[:512]:
        if name.endswith(suffix) and name.startswith(prefix):
            text = root.text(f"{directory}/{name}", _MAX_TEXT)
            if text is not None:
                yield f"{directory}/{name}", text


def parse_ini(text: str) -> dict[str, dict[str, str]]:
    """Sections of a keyfile of NetworkManager or systemd; keys in lower case, the last one wins."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in lines(text):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1].lower(), {})
        elif "=" in line and not line.startswith(("#", ";")):
            key, _unused, value = line.partition("=")
            current[key.strip().lower()] = value.strip().strip('"')
    return sections


class _Cards:
    """Collects what names a card; a name that goes with an address is one that stays."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.bound: dict[tuple[str, str], None] = {}

    def name(self, name: str, path: str) -> None:
        name = clean(name, 64)
        if name and not _VIRTUAL.search(name) and not _GLOB.search(name):
            self.bound[name, path] = None

    def place(self, what: str, path: str) -> None:
        self.bound[clean(what, 80), path] = None

    def result(self) -> Iterator[Bound]:
        named = {name for name, _unused in self.bound if name not in self.kept}
        plain = {name for name in named if re.fullmatch(r"eth\d+", name)}
        for name, path in self.bound:
            # The only card is eth0 before and after.
            if name in named and not (plain == {"eth0"} and name == "eth0"):
                yield Bound("nic", name, path)


def _udev(root: GuestRoot, cards: _Cards) -> None:
    for path, text in _files(root, "/etc/udev/rules.d", ".rules"):
        for line in lines(text, 1024) if "net" in path else ():
            name = re.search(r'NAME:?="([^"]+)"', line)
            if name is None or line.startswith("#"):
                continue
            if re.search(r"(?:ATTRS?|SYSFS)\{address\}==", line):
                cards.kept.add(name[1])
            elif found := re.search(r'(?:KERNELS?|ID|ENV\{ID_PATH\})=="([^"]+)"', line):
                cards.place(f"{name[1]} ({found[1]})", path)


def _ifcfg(root: GuestRoot, cards: _Cards) -> None:
    for directory in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        for path, text in _files(root, directory, prefix="ifcfg-"):
            values = parse_assignments(text)
            kind = values.get("TYPE", "Ethernet").lower()
            device = values.get("DEVICE") or values.get("INTERFACENAME")
            if device is None and directory.endswith("/network"):
                device = path.rpartition("/ifcfg-")[2]
            if kind != "ethernet" or not device or "VLAN" in values or "BONDING_MASTER" in values:
                continue
            if "HWADDR" in values:
                cards.kept.add(device)
            elif values.get("BRIDGE") != "yes":
                cards.name(device, path)


def _network_manager(root: GuestRoot, cards: _Cards) -> None:
    for directory in ("/etc/NetworkManager/system-connections", "/usr/lib/NetworkManager/system-connections"):
        for path, text in _files(root, directory):
            sections = parse_ini(text)
            connection = sections.get("connection", {})
            if connection.get("type") not in {"ethernet", "802-3-ethernet"}:
                continue
            cards.name(connection.get("interface-name", ""), path)
            match = sections.get("match", {})
            if found := match.get("path") or match.get("driver"):
                cards.place(found, path)


def _networkd(root: GuestRoot, cards: _Cards) -> None:
    for path, text in _files(root, "/etc/systemd/network"):
        sections = parse_ini(text)
        match = sections.get("match", {})
        by_address = "macaddress" in match or "permanentmacaddress" in match
        place = match.get("path") or match.get("driver") or ""
        if path.endswith(".link"):
            name = sections.get("link", {}).get("name", "")
            if name and by_address:
                cards.kept.add(name)
            elif name and place:
                cards.place(f"{name} ({place})", path)
        elif path.endswith(".network") and not by_address and "kind" not in match:
            for name in match.get("name", "").split():
                cards.name(name, path)
            if place and not _GLOB.fullmatch(place):
                cards.place(place, path)


def _ifupdown(root: GuestRoot, cards: _Cards) -> None:
    files = [("/etc/network/interfaces", root.text("/etc/network/interfaces", _MAX_TEXT) or "")]
    files += list(_files(root, "/etc/network/interfaces.d"))
    for path, text in files[:_MAX_FILES]:
        for line in lines(text):
            words = line.split()
            if len(words) >= 2 and words[0] == "iface":
                cards.name(words[1], path)


def netplan_cards(text: str) -> Iterator[tuple[str, bool]]:
    """Names below ``ethernets:`` of a netplan file, and whether a MAC address says which card is meant.

    No YAML parser: indentation is enough for what netplan, cloud-init and installers write.
    """
    section = -1
    card = -1
    name = ""
    address = False
    for raw in text.splitlines():
        line = raw[:1024].split(" #", 1)[0].rstrip()
        stripped = line.lstrip()
        if not stripped or stripped.startswith("#"):
            continue
        indent = len(line) - len(stripped)
        if section >= 0 and indent <= section:
            section = -1
        if section < 0:
            if stripped == "ethernets:":
                section, card = indent, -1
            continue
        if card < 0 or indent <= card:
            if name:
                yield name, address
            card, name, address = indent, stripped.partition(":")[0].strip("\"'"), "macaddress:" in stripped
        elif "macaddress:" in stripped or (stripped.startswith("name:") and _GLOB.search(stripped)):
            address = True
    if name:
        yield name, address


def _netplan(root: GuestRoot, cards: _Cards) -> None:
    for path, text in _files(root, "/etc/netplan", ".yaml"):
        for name, address in netplan_cards(text):
            if address:
                cards.kept.add(name)
            else:
                cards.name(name, path)


def read_bound(root: GuestRoot) -> tuple[Bound, ...]:
    """Everything that is bound to this machine's disks and cards."""
    cards = _Cards()
    for read in (_udev, _ifcfg, _network_manager, _networkd, _ifupdown, _netplan):
        read(root, cards)
    found: dict[str, list[Bound]] = {}
    for item in [*_disk_names(root), *_lvm(root), *_multipath(root), *cards.result()]:
        same = found.setdefault(item.kind, [])
        if item not in same and len(same) < MAX_NAMES:
            same.append(Bound(item.kind, item.value, clean(item.path, 160)))
    return tuple(item for kind in found.values() for item in kind)
