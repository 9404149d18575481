# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test wants to go wrong. README.md describes the fields."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, fields
from typing import Any

ACTIONS = ("refuse", "drop", "lose", "hang", "hang-after")
_RULE = {
    "every": int, "at": list, "from": int, "methods": list, "path": str, "action": str,
    "status": int, "minor": str, "message": str, "seconds": (int, float),
}  # fmt: skip


@dataclass
class CallRule:
    """One entry of ``calls``: which of the calls that match, and what happens to it."""

    spec: dict[str, Any]
    seen: int = 0

    def __post_init__(self) -> None:
        for key, value in self.spec.items():
            if key not in _RULE or not isinstance(value, _RULE[key]):  # type: ignore[arg-type]
                raise ValueError(f"calls: {key}={value!r} is not known; known are {', '.join(_RULE)}")
        if self.spec.get("action") not in ACTIONS:
            raise ValueError(f"calls: action must be one of {', '.join(ACTIONS)}")
        if sum(key in self.spec for key in ("every", "at", "from")) != 1:
            raise ValueError("calls: one of every, at, from is needed")

    def hit(self, method: str, path: str) -> bool:
        """Count a call, and say whether it is one that this happens to."""
        if method not in self.spec.get("methods", [method]) or not re.search(self.spec.get("path", ""), path):
            return False
        self.seen += 1
        if "every" in self.spec:
            return self.seen % int(self.spec["every"]) == 0
        if "at" in self.spec:
            return self.seen in self.spec["at"]
        return self.seen >= int(self.spec["from"])


@dataclass
class Faults:
    """All zero: nothing goes wrong."""

    unreachable: bool = False
    slow_seconds: float = 0.0
    task_errors: dict[str, Any] = field(default_factory=dict)
    task_error_times: int = 0
    stuck_tasks: bool = False
    refuse: list[dict[str, Any]] = field(default_factory=list)
    lose_answers: list[dict[str, Any]] = field(default_factory=list)
    delays: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rules = [CallRule(spec) for spec in self.calls]
        self.over = threading.Event()
        """Set when other faults take the place of these: what hangs goes on, and ends without an answer."""

    def call(self, method: str, path: str) -> dict[str, Any] | None:
        """Count a call for all rules, and give the first rule that it meets."""
        hits = [rule.spec for rule in self.rules if rule.hit(method, path)]
        return hits[0] if hits else None

    def as_json(self) -> dict[str, Any]:
        """For GET faults: as they are now, and how many calls each rule has seen."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return values | {"seen": [rule.seen for rule in self.rules]}
