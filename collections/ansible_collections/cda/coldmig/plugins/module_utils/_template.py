# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What a template must look like, from the options of the module ``template``. No I/O.

The gateway checks all of it again. It is checked here too so that check mode tells the truth.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError

SIMPLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
SIMPLE_NAME_EXPECTED = "1 to 63 letters, digits, '_', '.' and '-', the first a letter or digit"
PLACEHOLDERS = ("{name}", "{serial}", "{id}")
VAPP_PLACEHOLDERS = (*PLACEHOLDERS, "{template}")
METADATA_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:@-]{0,127}")
OWN_METADATA = "coldmig."
MOST_METADATA = 20

HARDWARE = (
    "guest_id",
    "firmware",
    "secure_boot",
    "disk_controller",
    "nic_type",
    "cpus",
    "cores_per_socket",
    "memory_mb",
)
AT_END = ("success", "failure")
MOST_CPUS = 768
MOST_MEMORY_MB = 24 << 20
MOST_CODES = 100
WARNING_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

DEFAULTS: t.Mapping[str, t.Any] = {
    "description": "",
    "auto_start": False,
    "power_on": False,
    "name_pattern": "{name}",
    "skip_free": "auto",
    "mode": "migrate",
    "system": None,
    "accept_warnings": [],
    "hardware": dict.fromkeys(HARDWARE),
    "at_end": dict.fromkeys(AT_END),
    "collect_logs": False,
    "limits": {"max_migrations": None, "max_disk_bytes": None, "max_total_bytes": None, "bandwidth_limit": None},
}
WRITABLE = (
    "name",
    "organization",
    "description",
    "destination",
    "auto_start",
    "power_on",
    "name_pattern",
    "skip_free",
    "mode",
    "system",
    "accept_warnings",
    "hardware",
    "at_end",
    "collect_logs",
    "limits",
)
LEAST_BANDWIDTH = 65536


def check_simple_name(field: str, value: str) -> None:
    """Raise InputError unless the value can be the name of an organization or a template."""
    if not SIMPLE_NAME.fullmatch(value):
        raise InputError(field, value, SIMPLE_NAME_EXPECTED)


def check_destination(destination: t.Mapping[str, t.Any]) -> None:
    """Raise InputError for a destination that contradicts itself."""
    for name in ("vdc", "storage_profile", "vapp", "owner"):
        value = destination.get(name)
        if value is not None and not value.strip():
            raise InputError(f"destination.{name}", value, "a name that is not empty")
    _check_vapp(destination.get("import_as"), destination.get("vapp"))
    _check_metadata(destination.get("metadata") or {})
    if len(destination.get("description") or "") > 256:
        raise InputError("destination.description", destination["description"], "at most 256 characters")
    for index, disk in enumerate(destination.get("disks") or ()):
        profile = disk["storage_profile"]
        if profile is not None and not profile.strip():
            raise InputError(f"destination.disks[{index}].storage_profile", profile, "a name that is not empty")
    for index, network in enumerate(destination["networks"]):
        field = f"destination.networks[{index}]"
        mode, address = network["ip_mode"], network["ip"]
        if not network["network"].strip():
            raise InputError(f"{field}.network", network["network"], "a name that is not empty")
        if mode != "MANUAL":
            if address is not None:
                raise InputError(f"{field}.ip", address, f"only with ip_mode MANUAL, which is {mode} here")
            continue
        if address is None:
            raise InputError(f"{field}.ip", address, "an IP address is needed with ip_mode MANUAL")
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InputError(f"{field}.ip", address, "an IP address without a prefix length") from error


def _check_vapp(import_as: str | None, vapp: str | None) -> None:
    if import_as in ("shared", "existing") and vapp is None:
        raise InputError("destination.vapp", vapp, f"the name of a vApp is needed with import_as {import_as}")
    if import_as == "standalone" and vapp is not None:
        raise InputError("destination.vapp", vapp, "nothing with import_as standalone: such a VM has no vApp")
    if import_as is None or vapp is None:
        return
    rest = vapp
    for placeholder in VAPP_PLACEHOLDERS:
        rest = rest.replace(placeholder, "")
    if "{" in rest or "}" in rest:
        raise InputError("destination.vapp", vapp, f"no braces but those of {', '.join(VAPP_PLACEHOLDERS)}")


def _check_metadata(metadata: t.Mapping[str, t.Any]) -> None:
    if len(metadata) > MOST_METADATA:
        raise InputError("destination.metadata", len(metadata), f"at most {MOST_METADATA} entries")
    for key, value in metadata.items():
        if not METADATA_KEY.fullmatch(str(key)) or str(key).startswith(OWN_METADATA):
            raise InputError(
                "destination.metadata", key, "as key letters, digits, spaces and . _ : @ -, not beginning with coldmig."
            )
        if not isinstance(value, str) or not (value.isprintable() and len(value) <= 1000):
            raise InputError(f"destination.metadata[{key}]", value, "one line of text of at most 1000 characters")


def normal_destination(destination: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """A checked destination with its addresses in the form in which the gateway keeps them."""
    networks = [
        {**network, "ip": str(ipaddress.ip_address(network["ip"])) if network["ip"] is not None else None}
        for network in destination["networks"]
    ]
    return {**destination, "networks": networks}


def check_name_pattern(pattern: str) -> None:
    """Raise InputError unless the pattern has placeholders and beside them only what is good in a VM's name."""
    rest = pattern
    for placeholder in PLACEHOLDERS:
        rest = rest.replace(placeholder, "")
    # Without a placeholder every VM made from the template would have the same name.
    if rest == pattern or not re.fullmatch(r"[A-Za-z0-9._-]*", rest):
        allowed = ", ".join(PLACEHOLDERS)
        raise InputError(
            "name_pattern",
            pattern,
            f"at least one of {allowed}, and beside them only letters, digits, '.', '_' and '-'",
        )


def check_limits(limits: t.Mapping[str, int | None]) -> None:
    """Raise InputError for a limit that would let nothing through."""
    for name, value in limits.items():
        if value is not None and value < 1:
            raise InputError(f"limits.{name}", value, "a whole number from 1 on, or nothing for no limit")
    bandwidth = limits.get("bandwidth_limit")
    if bandwidth is not None and bandwidth < LEAST_BANDWIDTH:
        raise InputError("limits.bandwidth_limit", bandwidth, f"at least {LEAST_BANDWIDTH} bytes per second")


def check_system(system: str) -> None:
    """Raise InputError unless the text can be the key of a system, or a pattern for it."""
    if not 1 <= len(system) <= 256 or not system.isprintable():
        raise InputError("system", system, "one line of 1 to 256 characters: a key of a system, or a pattern")


def check_codes(codes: t.Sequence[str]) -> None:
    """Raise InputError unless all of them can be codes of warnings."""
    if len(codes) > MOST_CODES:
        raise InputError("accept_warnings", len(codes), f"at most {MOST_CODES} codes")
    for index, code in enumerate(codes):
        if not WARNING_CODE.fullmatch(code):
            raise InputError(f"accept_warnings[{index}]", code, "the code of a warning, such as tpm-sealed")


def check_hardware(hardware: t.Mapping[str, t.Any]) -> None:
    """Raise InputError for virtual hardware that there is not, or that contradicts itself."""
    guest_id = hardware.get("guest_id")
    if guest_id is not None and not re.fullmatch(r"[A-Za-z0-9_]{1,64}", guest_id):
        raise InputError("hardware.guest_id", guest_id, "a guest id of vSphere, such as debian12_64Guest")
    for name in ("cpus", "cores_per_socket"):
        value = hardware.get(name)
        if value is not None and not 1 <= value <= MOST_CPUS:
            raise InputError(f"hardware.{name}", value, f"a whole number from 1 to {MOST_CPUS}")
    cpus, cores = hardware.get("cpus"), hardware.get("cores_per_socket")
    if cpus is not None and cores is not None and cpus % cores:
        raise InputError("hardware.cpus", cpus, f"a multiple of cores_per_socket, which is {cores}")
    memory = hardware.get("memory_mb")
    if memory is not None and (not 4 <= memory <= MOST_MEMORY_MB or memory % 4):
        raise InputError("hardware.memory_mb", memory, f"a multiple of 4 from 4 to {MOST_MEMORY_MB}")
    if hardware.get("secure_boot") and hardware.get("firmware") == "bios":
        raise InputError("hardware.secure_boot", True, "only with firmware efi, which is bios here")


def normal_hardware(hardware: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Virtual hardware as the gateway gives it: every name, None where it is chosen by itself."""
    return {name: hardware.get(name) for name in HARDWARE}


def check_options(options: t.Mapping[str, t.Any]) -> None:
    """Check all options of a template that are given. Raises InputError for the first that is wrong."""
    check_simple_name("name", options["name"])
    if options.get("organization") is not None:
        check_simple_name("organization", options["organization"])
    if options.get("destination") is not None:
        check_destination(options["destination"])
    if options.get("name_pattern") is not None:
        check_name_pattern(options["name_pattern"])
    if options.get("limits") is not None:
        check_limits(options["limits"])
    if options.get("system"):  # an empty one takes it away
        check_system(options["system"])
    if options.get("accept_warnings") is not None:
        check_codes(options["accept_warnings"])
    if options.get("hardware") is not None:
        check_hardware(options["hardware"])


def wanted_template(options: t.Mapping[str, t.Any], current: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """The writable fields as they shall be.

    An option that is None keeps what *current* has; without *current* it gets its default. ``destination``,
    ``accept_warnings``, ``hardware``, ``at_end`` and ``limits`` are replaced as a whole; an empty ``system`` is none.
    Raises InputError when a new template lacks its destination.
    """
    base = DEFAULTS if current is None else current
    given = {name: options[name] for name in WRITABLE if options.get(name) is not None}
    if "destination" in given:
        given["destination"] = normal_destination(given["destination"])
    if "accept_warnings" in given:
        given["accept_warnings"] = sorted(set(given["accept_warnings"]))
    if "hardware" in given:
        given["hardware"] = normal_hardware(given["hardware"])
    if "system" in given:
        given["system"] = given["system"] or None
    wanted = {name: base[name] for name in WRITABLE if name in base} | given
    if "destination" not in wanted:
        raise InputError("destination", None, "needed to create a template")
    return wanted
