# SPDX-License-Identifier: GPL-3.0-or-later
"""The public TLS port: disk content in, images out; everything else is passed on to the control plane."""
