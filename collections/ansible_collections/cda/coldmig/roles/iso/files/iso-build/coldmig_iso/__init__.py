# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the base ISO of cda.coldmig: Debian tree, squashfs, own small initrd, hybrid BIOS/UEFI image.

Stages, each cached by the digest of everything that goes into it (see pipeline.py):

tree (mmdebstrap) -> system (trimmed squashfs, kernel, initrd modules) -> layer (our files, agent) -> initrd -> ISO
"""

from __future__ import annotations

from pathlib import Path

FORMAT = 2
"""Version of the image's layout; module_utils/_iso_config.py has the same number."""

VERSION = "0.1.0"
"""Version of the collection, which the image names in its menu."""

SOURCES = Path(__file__).resolve().parent.parent
"""The directory iso-build/ with the data files."""
