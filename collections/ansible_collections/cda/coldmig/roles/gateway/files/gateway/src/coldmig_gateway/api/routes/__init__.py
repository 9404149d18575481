# SPDX-License-Identifier: GPL-3.0-or-later
"""One file per subject: the paths of the API."""
