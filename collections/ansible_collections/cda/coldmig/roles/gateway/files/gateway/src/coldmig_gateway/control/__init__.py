# SPDX-License-Identifier: GPL-3.0-or-later
"""The control plane as a process: the API on a Unix socket, behind the front that speaks TLS."""
