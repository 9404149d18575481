# SPDX-License-Identifier: GPL-3.0-or-later
"""One file per subject: the bodies that the API takes and gives."""
