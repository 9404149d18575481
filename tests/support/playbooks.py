# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook as the tests run it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

#: Where the virtual environment has its programs.
BIN = Path(sys.executable).parent


@dataclass
class Run:
    """A finished ansible-playbook."""

    status: int
    text: str

    @property
    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        return sum(int(count) for count in re.findall(r"changed=(\d+)", self.text))
