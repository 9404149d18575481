# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the connection to vCenter."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents ``vcenter_options`` of the module utility ``_destination``."""

    DOCUMENTATION = r"""
options:
  hostname:
    description:
      - Host name or address of vCenter.
      - If not set, the environment variable E(VMWARE_HOST) is used.
    type: str
    required: true
  username:
    description:
      - Account at vCenter. M(cda.coldmig.preflight) tells which privileges it lacks.
      - If not set, the environment variable E(VMWARE_USER) is used.
    type: str
    required: true
  password:
    description:
      - Password of the account.
      - If not set, the environment variable E(VMWARE_PASSWORD) is used.
    type: str
    required: true
  port:
    description:
      - Port of vCenter.
      - If not set, the environment variable E(VMWARE_PORT) is used.
    type: int
    default: 443
  validate_certs:
    description:
      - Whether the certificate of vCenter is verified. Without it anybody on the way can read the password.
      - If not set, the environment variable E(VMWARE_VALIDATE_CERTS) is used.
    type: bool
    default: true
  ca_path:
    description:
      - PEM file with the CA of vCenter. Without it the CA certificates of the system are trusted.
      - If not set, the environment variable E(VMWARE_CA_PATH) is used.
    type: path
  vcenter_timeout:
    description:
      - Seconds within which each connection and each answer of vCenter has to come.
      - When two in a row did not, the module fails.
    type: int
    default: 60
requirements:
  - pyvmomi >= 8.0.1
"""
