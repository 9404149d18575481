# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What a check of the destination has found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """``error``: the VM cannot be made so; ``warning``: it may go wrong; ``info``. *tenant*: what tenants may read."""

    code: str
    severity: str
    subject: str
    message: str
    expected: str
    tenant: str

    def as_dict(self) -> dict[str, str]:
        """For a module's result."""
        values = asdict(self)
        values["tenant_message"] = values.pop("tenant")
        return values

    def as_note(self) -> dict[str, str]:
        """For the migration at the gateway, where tenants read it."""
        told = self.tenant == self.message
        return {
            "code": self.code,
            "severity": self.severity,
            "subject": self.subject[:128],
            "message": self.tenant[:2000],
            "expected": self.expected[:2000] if told else "",
        }


def ordered(findings: list[Finding]) -> list[Finding]:
    """What is worst first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
