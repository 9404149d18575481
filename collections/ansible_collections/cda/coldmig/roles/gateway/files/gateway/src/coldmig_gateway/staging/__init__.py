# SPDX-License-Identifier: GPL-3.0-or-later
"""Where disk content waits on the site: one pack and one index per disk. The reference is docs/wire-format.md."""
