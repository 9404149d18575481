# SPDX-License-Identifier: GPL-3.0-or-later
"""A terminal's full screen by urwid's display: it sends only what has changed, and understands keys.

Imported only where a full screen is shown: the library takes 6 MiB of memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from urwid import TextCanvas, set_encoding
from urwid.raw_display import Screen

from coldmig_agent.console.picture import Line
from coldmig_agent.console.terminal import Terminal

#: (style, foreground, background, how it looks without colours).
PALETTE = (
    ("", "default", "default", "default"),
    ("bar", "black", "light gray", "standout"),
    ("strong", "white", "default", "bold"),
    ("good", "light green", "default", "bold"),
    ("bad", "light red", "default", "bold"),
    ("warn", "yellow", "default", "bold"),
    ("dim", "light gray", "default", "default"),
    ("field", "white", "dark blue", "standout"),
)
SMALLEST = (80, 24)
LARGEST = (240, 100)
#: Half an escape sequence is taken for the key Escape after this time.
ESCAPE_SECONDS = 0.3
#: Asks a terminal that the kernel knows no size of where its last column and row are (ECMA-48 CUP, DSR).
_WHERE = "\x1b7\x1b[999;999H\x1b[6n\x1b8"


class _Display(Screen):  # type: ignore[misc] # urwid has no types
    """urwid's display on our terminal: without signals (they belong to the main thread), and never waiting."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(input=object(), output=object())
        self._terminal = terminal
        self._parts: list[str] = []

    def signal_init(self) -> None:
        """Sizes are asked for, not signalled."""

    def signal_restore(self) -> None:
        """See signal_init."""

    def tty_signal_keys(self, *_keys: object, fileno: object = None) -> None:
        """The terminal's own settings are the terminal's business."""

    def write(self, data: str) -> None:
        self._parts.append(data)

    def flush(self) -> None:
        self._terminal.write("".join(self._parts))
        self._parts.clear()


class FullScreen:
    """Draws lines and gives keys by urwid's names."""

    def __init__(self, terminal: Terminal, term: str) -> None:
        set_encoding("ascii")
        self._terminal = terminal
        self._display = _Display(terminal)
        self._display.term = term
        self._display.bg_bright_is_blink = term == "linux"
        self._display.back_color_erase = term == "linux"
        self._display.set_terminal_properties(colors=16, bright_is_bold=True, has_underline=False)
        for name, front, back, mono in PALETTE:
            self._display.register_palette_entry(name, front, back, mono)
        self._codes: list[int] = []
        self._since = 0.0
        self._told: tuple[int, int] | None = None
        self._shown: object = None

    def start(self) -> None:
        """Take the terminal over."""
        self._terminal.keys()
        self._terminal.forget()
        self._display.start()
        self.refresh()

    def stop(self) -> None:
        """Give it back."""
        self._display.stop()
        self._terminal.restore()

    def refresh(self) -> None:
        """Draw everything anew the next time, as others may have written over it; and ask for the size."""
        self._display.clear()
        self._shown = None
        if self._terminal.size() == (0, 0):
            self._terminal.write(_WHERE)

    def size(self) -> tuple[int, int]:
        """Columns and rows of the picture."""
        columns, rows = self._terminal.size()
        if not columns or not rows:
            columns, rows = self._told or SMALLEST
        return min(columns, LARGEST[0]), min(rows, LARGEST[1])

    def draw(self, lines: Sequence[Line], cursor: tuple[int, int] | None, size: tuple[int, int]) -> bool:
        """Show lines that fill the size exactly. False when the line is still busy with the picture before."""
        if not self._terminal.drained:
            return False
        if self._shown == (list(lines), cursor, size):
            return True
        self._shown = (list(lines), cursor, size)
        columns, rows = size
        texts = [line.text[:columns].ljust(columns).encode("ascii", "replace") for line in lines[:rows]]
        # The last place of the last row would make some terminals scroll.
        attributes = [[(line.style, columns)] for line in lines[:rows]]
        canvas = TextCanvas(texts, attributes, cursor=cursor, maxcol=columns, check_width=False)
        self._display.draw_screen(size, canvas)
        return True

    def keys(self, data: bytes) -> list[str]:
        """The keys in what was typed; an incomplete sequence waits for its rest."""
        now = time.monotonic()
        if data:
            self._codes += data
            self._since = now
        if not self._codes:
            return []
        late = now - self._since > ESCAPE_SECONDS
        codes, self._codes = self._codes, []
        found, _raw = self._display.parse_input(None, None, codes, wait_for_more=not late)
        self._codes = list(self._display._partial_codes or [])
        self._display._partial_codes = None
        keys = []
        for key in found:
            if isinstance(key, str):
                keys.append(key)
            elif key and key[0] == "cursor position":
                self._told = (max(40, key[1] + 1), max(10, key[2] + 1))
        return keys
