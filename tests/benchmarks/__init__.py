# SPDX-License-Identifier: GPL-3.0-or-later
"""What a copy costs, against what else there is: ``python -m tests.benchmarks``."""
