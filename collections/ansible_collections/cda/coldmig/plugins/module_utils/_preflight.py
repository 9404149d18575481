# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the module ``preflight`` does: ask vCenter and Cloud Director what would be in the way of a VM."""

from __future__ import annotations

import typing as t
from collections.abc import Mapping

from ansible_collections.cda.coldmig.plugins.module_utils import _vcd_check, _vcenter_check
from ansible_collections.cda.coldmig.plugins.module_utils._destination import Outcome, get_migration, require_id
from ansible_collections.cda.coldmig.plugins.module_utils._errors import ColdmigError, InputError, StateError
from ansible_collections.cda.coldmig.plugins.module_utils._findings import Finding, ordered
from ansible_collections.cda.coldmig.plugins.module_utils._gateway import GatewayClient, Migration, Template
from ansible_collections.cda.coldmig.plugins.module_utils._vcd import Vcd
from ansible_collections.cda.coldmig.plugins.module_utils._vcenter import Vcenter

NO_ID = "00000000-0000-0000-0000-000000000000"
AT_VCD = {
    "vm-quota": "VDC",
    "vdc-disabled": "VDC",
    "hardware-version": "VDC",
    "storage-limit": "storage profile",
    "storage-disabled": "storage profile",
    "vapp-name": "vApp",
    "vapp-failed": "vApp",
    "vm-name": "VM",
    "address": "network",
    "nics": "NICs",
    "mac": "NICs",
}
"""What the codes of Cloud Director's findings are about, where the text does not say it itself."""

Options = Mapping[str, t.Any]


def preflight(options: Options, *, check_mode: bool) -> Outcome:
    """Values: ``findings``, ``passed``, ``checked``. What was found is noted on a migration."""
    with GatewayClient.from_options(options) as gateway:
        migration = template = None
        if options["migration"] is not None:
            migration = get_migration(gateway, require_id(options["migration"]))
        else:
            template = gateway.find_template(options["template"], options["organization"])
            if template is None:
                raise StateError(f"the gateway has no template {options['template']!r}")
        findings: list[Finding] = []
        checked = []
        instance_uuid = None
        if options["hostname"]:
            checked.append("vcenter")
            found, instance_uuid = _vcenter(options, migration, template)
            findings += found
        if options["vcd_url"]:
            checked.append("vcd")
            findings += _vcd(options, migration or as_migration(t.cast(Template, template)), instance_uuid)
        if not checked:
            raise InputError("hostname", options["hostname"], "a vCenter; or vcd_url, a Cloud Director; or both")
        findings = ordered(findings)
        passed = not any(finding.severity == "error" for finding in findings)
        if migration is not None and options["record"] and not check_mode:
            note = {
                "passed": passed,
                "detail": f"checked: {', '.join(checked)}",
                "findings": [finding.as_note() for finding in findings[:200]],
            }
            gateway.note_check(migration["id"], "preflight", note)
    return Outcome(
        values={"findings": [finding.as_dict() for finding in findings], "passed": passed, "checked": checked}
    )


def as_migration(template: Template) -> Migration:
    """A migration as this template would make one, of a machine without disks and NICs."""
    name = template["name_pattern"].replace("{name}", "machine")
    made = {
        "id": NO_ID,
        "name": name,
        "organization": template["organization"],
        "template": {"id": template["id"], "name": template["name"]},
        "destination": template["destination"],
        "machine": {"name": name, "serial": "", "disks": [], "nics": []},
        "disks": [],
        "refs": {"vcenter_vm": None, "vcd_vapp": None, "vcd_vm": None},
        "power_on": template["power_on"],
        "hardware": template["hardware"],
        "state": "waiting",
    }
    return t.cast(Migration, made)


def _vcenter(
    options: Options, migration: Migration | None, template: Template | None
) -> tuple[list[Finding], str | None]:
    """What it found, and which vCenter it is, by its UUID."""
    wanted = {**options, "hardware": template["hardware"] if template is not None else None}
    try:
        with Vcenter.from_options(options) as vcenter:
            return _vcenter_check.check(vcenter, wanted, migration), vcenter.about()["instance_uuid"]
    except ColdmigError as error:
        # whoever cannot log in learns nothing else of this side, but of the other
        return [Finding("vcenter-account", "error", "vCenter", str(error), "", _vcenter_check.FOR_TENANTS)], None


def _vcd(options: Options, migration: Migration, instance_uuid: str | None) -> list[Finding]:
    try:
        with Vcd.from_options(options) as vcd:
            found = _vcd_check.check(
                vcd,
                migration,
                owner=options["owner"],
                vcenter=options["vcd_vcenter"] or instance_uuid,
                hardware_version=options["hardware_version"],
            )
    except ColdmigError as error:
        told = error.details().get("tenant_msg", "The provider's account at Cloud Director is not ready for it")
        return [Finding("vcd-account", "error", "Cloud Director", str(error), "", told)]
    return [_of_vcd(one) for one in found]


def _of_vcd(found: _vcd_check.Finding) -> Finding:
    """Its text says what is wrong, and after a semicolon what would be right."""
    subject = AT_VCD.get(found.code, "Cloud Director")
    message = found.message
    head, colon, rest = message.partition(": ")
    if found.code == "vcd-name" and colon:
        subject, message = head, rest
    wrong, _semicolon, right = message.partition("; ")
    tenant = wrong if found.tenant == found.message else found.tenant
    return Finding(found.code, found.severity, subject, wrong, right, tenant)
