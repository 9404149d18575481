# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module says about its behaviour."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes; each module fills in its support."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return changed status prediction without modifying the target.
  diff_mode:
    description: Returns details on what has changed (or possibly needs changing in C(check_mode)), when in diff mode.
  idempotent:
    description: When run twice in a row outside check mode with the same arguments, the second run indicates no change.
"""

    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module does not modify state.
  diff_mode:
    support: N/A
    details:
      - This module does not modify state.
  idempotent:
    support: full
    details:
      - This module does not modify state.
"""

    ACTIONGROUP_GATEWAY = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/cda.coldmig.gateway) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - cda.coldmig.gateway
"""

    ACTIONGROUP_VCENTER = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/cda.coldmig.vcenter) and C(group/cda.coldmig.gateway) in C(module_defaults) to set defaults for this
        module.
    support: full
    membership:
      - cda.coldmig.vcenter
      - cda.coldmig.gateway
"""

    ACTIONGROUP_VCD = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/cda.coldmig.vcd) and C(group/cda.coldmig.gateway) in C(module_defaults) to set defaults for this
        module.
    support: full
    membership:
      - cda.coldmig.vcd
      - cda.coldmig.gateway
"""

    ACTIONGROUP_DESTINATION = r"""
options: {}
attributes:
  action_group:
    description:
      - Use C(group/cda.coldmig.vcenter), C(group/cda.coldmig.vcd) and C(group/cda.coldmig.gateway) in
        C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - cda.coldmig.vcenter
      - cda.coldmig.vcd
      - cda.coldmig.gateway
"""
