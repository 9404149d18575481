# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE to the collection cda.coldmig: this module utility may change in any release.
"""Collects differences between what is and what is wanted: feeds both ``changed`` and ``diff``."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field


@dataclass
class Differences:
    """Differences by name, in the order in which they were found."""

    before: dict[str, t.Any] = field(default_factory=dict)
    after: dict[str, t.Any] = field(default_factory=dict)

    @classmethod
    def between(cls, current: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> Differences:
        """Compare only the names in *wanted*; one that *current* lacks counts as None."""
        found = cls()
        for name, value in wanted.items():
            found.add(name, current.get(name), value)
        return found

    def add(self, name: str, current: t.Any, wanted: t.Any) -> None:
        """Remember *name* if the two values differ."""
        if current != wanted:
            self.before[name] = current
            self.after[name] = wanted

    def __bool__(self) -> bool:
        return bool(self.after)

    def as_diff(self) -> dict[str, t.Any]:
        """The value of a module's ``diff``."""
        return {"before": self.before, "after": self.after}
