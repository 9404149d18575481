# SPDX-License-Identifier: GPL-3.0-or-later
"""The Merkle root of a disk: a tree of BLAKE3-256 digests in the shape of RFC 6962, section 2.1.

Leaf: H(0x00 ‖ digest of the chunk's plain bytes); node: H(0x01 ‖ left ‖ right), where left holds the greatest power of
two of leaves that leaves something for right. A chunk of zeros counts with the digest of its zero bytes, so the root
depends on content only, not on how it was sent.
"""

from __future__ import annotations

from blake3 import blake3


def _leaf(digest: bytes) -> bytes:
    return blake3(b"\x00" + digest).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return blake3(b"\x01" + left + right).digest()


class MerkleTree:
    """Takes the chunk digests of a disk in ascending order. Memory: one digest for each level of the tree."""

    def __init__(self) -> None:
        self._count = 0
        self._peaks: list[bytes] = []  # one for each bit of the count, highest first: roots of full trees
        self._run_of = b""
        self._run: list[bytes] = []  # for the digest ``_run_of``: the root of a full tree of it, by height

    def add(self, digest: bytes, times: int = 1) -> None:
        """Appends one chunk's digest, or the same digest ``times`` times; a long run costs next to nothing."""
        if times == 1:
            self._append(_leaf(digest), 0)
            return
        if digest != self._run_of:
            self._run_of, self._run = digest, [_leaf(digest)]
        while times:
            # The greatest full tree that fits in what is left and begins where one of its size may begin.
            height = times.bit_length() - 1
            if self._count:
                height = min(height, (self._count & -self._count).bit_length() - 1)
            while len(self._run) <= height:
                self._run.append(_node(self._run[-1], self._run[-1]))
            self._append(self._run[height], height)
            times -= 1 << height

    def _append(self, root: bytes, height: int) -> None:
        below = self._count >> height
        while below & 1:
            root = _node(self._peaks.pop(), root)
            below >>= 1
        self._peaks.append(root)
        self._count += 1 << height

    def hexdigest(self) -> str:
        """The root, 64 hexadecimal digits. Raises ValueError if there is no chunk."""
        if not self._peaks:
            raise ValueError("a disk has at least one chunk")
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = _node(peak, root)
        return root.hex()
