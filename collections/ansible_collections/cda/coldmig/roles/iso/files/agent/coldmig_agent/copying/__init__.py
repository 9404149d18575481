# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy: every chunk of every disk, read once where all goes well, until the site says that it has them all.

The powered-off source is the retransmission buffer. Nothing is remembered here that the site's bitmap does not say
better; memory is bounded by the buffers in :mod:`coldmig_agent.copying.engine`, whatever the size of the disks.
"""
