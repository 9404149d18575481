# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent and the gateway say to each other about disk content: frames, chunk payloads, digests.

Pure functions over bytes; no I/O. The reference is docs/wire-format.md.
"""
