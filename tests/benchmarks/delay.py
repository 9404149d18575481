# SPDX-License-Identifier: GPL-3.0-or-later
"""A relay that delays: ``python -m tests.benchmarks.delay PID MILLISECONDS``.

Makes a TUN device "site" in this network namespace and one "source" in that of process PID, and passes every packet
from one to the other MILLISECONDS after it came. Ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import struct
import sys
import threading
import time

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x1000, 0x4000
_OFFLOADS = 0x1 | 0x2 | 0x4  # checksums, TCP segmentation: packets of up to 64 KiB cross in one piece
_CLONE_NEWNET = 0x40000000
_LARGEST = 65536 + 64


def open_tun(name: str) -> int:
    """A TUN device in the namespace of this thread; packets begin with a virtio_net_hdr."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
    return fd


def enter_network_of(pid: int) -> None:
    """Bring this thread into the network namespace of another process. Raises OSError."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"network namespace of {pid}")
    os.close(fd)


def _receive(fd: int, waiting: queue.SimpleQueue[tuple[float, bytes]], seconds: float) -> None:
    while True:
        try:
            packet = os.read(fd, _LARGEST)
        except OSError:
            time.sleep(0.01)  # the device is not up yet
            continue
        waiting.put((time.monotonic() + seconds, packet))


def _send(fd: int, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, packet = waiting.get()
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        try:
            os.write(fd, packet)
        except OSError:
            continue  # a network loses packets


def main() -> None:
    """Relay until standard input ends."""
    pid, seconds = int(sys.argv[1]), float(sys.argv[2]) / 1000
    site = open_tun("site")
    enter_network_of(pid)
    source = open_tun("source")
    for come, go in ((site, source), (source, site)):
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(come, waiting, seconds), daemon=True).start()
        threading.Thread(target=_send, args=(go, waiting), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
