# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the connection to Cloud Director."""

from __future__ import annotations


class ModuleDocFragment:
    """Documents ``vcd_options`` of the module utility ``_destination``."""

    DOCUMENTATION = r"""
options:
  vcd_url:
    description:
      - Address of VMware Cloud Director, such as V(https://vcd.example.com).
      - If not set, the environment variable E(VCD_URL) is used.
    type: str
    required: true
  vcd_org:
    description:
      - Organization of the account. Importing from vCenter is restricted to system administrators, whose organization
        is V(System).
      - If not set, the environment variable E(VCD_ORG) is used.
    type: str
    default: System
  vcd_user:
    description:
      - Account at Cloud Director, with O(vcd_password).
      - If not set, the environment variable E(VCD_USER) is used.
    type: str
  vcd_password:
    description:
      - Password of the account.
      - If not set, the environment variable E(VCD_PASSWORD) is used.
    type: str
  vcd_api_token:
    description:
      - API token, in place of O(vcd_user) and O(vcd_password), also if these are given.
      - Needs API version 36.1 (Cloud Director 10.3.1).
      - If not set, the environment variable E(VCD_API_TOKEN) is used.
    type: str
  vcd_service_account_path:
    description:
      - File with the token of a service account, in place of O(vcd_user) and O(vcd_password). A JSON object with
        C(refresh_token), as other tools for Cloud Director write it.
      - Each use of the token brings the next one, so the file is written again, and its folder must be writable. Runs
        side by side on one host may share it; runs on several hosts need a service account each.
      - Needs API version 37.0 (Cloud Director 10.4).
      - If not set, the environment variable E(VCD_SERVICE_ACCOUNT_PATH) is used.
    type: path
  vcd_validate_certs:
    description:
      - Whether the certificate of Cloud Director is verified. Without it anybody on the way can read the password.
      - If not set, the environment variable E(VCD_VALIDATE_CERTS) is used.
    type: bool
    default: true
  vcd_ca_path:
    description:
      - PEM file with the CA of Cloud Director. Without it the CA certificates of the system are trusted.
      - If not set, the environment variable E(VCD_CA_PATH) is used.
    type: path
  vcd_timeout:
    description:
      - Seconds within which each connection and each answer of Cloud Director has to come.
      - When two in a row did not, the module fails.
    type: int
    default: 60
requirements:
  - requests
"""
