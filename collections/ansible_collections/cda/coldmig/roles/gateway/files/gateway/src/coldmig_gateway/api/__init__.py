# SPDX-License-Identifier: GPL-3.0-or-later
"""The control plane: the HTTP API through which people, agents and Ansible work with the site."""
