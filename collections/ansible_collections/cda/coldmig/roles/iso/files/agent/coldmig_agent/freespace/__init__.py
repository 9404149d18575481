# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of a source disk need not be copied, because its file systems say that they hold nothing."""
