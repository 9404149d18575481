# SPDX-License-Identifier: GPL-3.0-or-later
"""The person in front of the machine: what is shown on its terminals, and what can be done there.

``words``, ``picture``, ``forms``, ``desk`` and ``talk`` are pure: state in, lines out. ``terminal`` and ``fullscreen``
write and read; ``seat`` keeps one terminal going, whatever happens to it.
"""
