# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""What the limits of a site shall be, from the options of the module ``site_limits``. No I/O."""

from __future__ import annotations

import typing as t

from ansible_collections.cda.coldmig.plugins.module_utils._diff import Differences
from ansible_collections.cda.coldmig.plugins.module_utils._errors import InputError

LEAST: t.Mapping[str, int] = {"bandwidth_limit": 65536, "max_concurrent_copies": 1}


def check_options(options: t.Mapping[str, t.Any]) -> None:
    """Raise InputError for a limit that no site can have."""
    for name, least in LEAST.items():
        value = options.get(name)
        if value is not None and value != 0 and value < least:
            raise InputError(name, value, f"a whole number from {least} on, or 0 for no limit")


def wanted_changes(current: t.Mapping[str, t.Any], options: t.Mapping[str, t.Any]) -> Differences:
    """Limits that differ, in the gateway's form: None is no limit. What is not given stays."""
    wanted = {name: options[name] or None for name in LEAST if options.get(name) is not None}
    return Differences.between(current, wanted)
