# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter language of /api/query and /cloudapi (FIQL), and paging."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulators.vcd.errors import bad_request

Predicate = Callable[[Mapping[str, Any]], bool]
MAX_PAGE = 128

_COMPARISON = re.compile(r"\s*([A-Za-z0-9_.:@-]+?)(==|!=|=gt=|=ge=|=lt=|=le=)", re.ASCII)


def compile_filter(text: str, known: set[str]) -> Predicate:
    """Make a predicate on records from a filter.

    Args:
        text: e.g. `(name==web*;isEnabled==true)`, already percent-decoded; `;` is and, `,` is or, a backslash takes the
            meaning from the next character.
        known: attributes that may be asked for; `metadata:KEY` and `metadata@SYSTEM:KEY` may be always.

    Raises:
        ApiError: the filter is malformed, or names an unknown attribute.
    """
    parser = _Parser(text, known)
    predicate = parser.alternatives()
    if parser.position != len(text):
        raise bad_request(f"Bad filter {text!r}: unexpected {text[parser.position :]!r}")
    return predicate


class _Parser:
    def __init__(self, text: str, known: set[str]) -> None:
        self.text = text
        self.known = known
        self.position = 0

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def alternatives(self) -> Predicate:
        parts = [self._all()]
        while self._peek() == ",":
            self.position += 1
            parts.append(self._all())
        return lambda record: any(part(record) for part in parts)

    def _all(self) -> Predicate:
        parts = [self._one()]
        while self._peek() == ";":
            self.position += 1
            parts.append(self._one())
        return lambda record: all(part(record) for part in parts)

    def _one(self) -> Predicate:
        if self._peek() == "(":
            self.position += 1
            inner = self.alternatives()
            if self._peek() != ")":
                raise bad_request(f"Bad filter {self.text!r}: a parenthesis is not closed")
            self.position += 1
            return inner
        match = _COMPARISON.match(self.text, self.position)
        if match is None:
            raise bad_request(f"Bad filter {self.text!r}: no comparison at {self.text[self.position :]!r}")
        attribute, operator = match.groups()
        self.position = match.end()
        value = self._value()
        if not attribute.startswith(("metadata:", "metadata@SYSTEM:")) and attribute not in self.known:
            raise bad_request(f"Unknown property {attribute} in the filter; known are {', '.join(sorted(self.known))}")
        return _comparison(attribute, operator, value)

    def _value(self) -> str:
        out = []
        while self.position < len(self.text) and (char := self.text[self.position]) not in ";,()":
            if char == "\\" and self.position + 1 < len(self.text):
                self.position += 1
                char = self.text[self.position]
            out.append(char)
            self.position += 1
        return "".join(out)


def _comparison(attribute: str, operator: str, value: str) -> Predicate:
    if attribute.startswith("metadata"):
        kind, colon, value = value.partition(":")
        if not colon or kind not in ("STRING", "NUMBER", "BOOLEAN", "DATETIME"):
            raise bad_request(f"A metadata value is compared as TYPE:value, e.g. STRING:x; got {kind!r}")

    def matches(record: Mapping[str, Any]) -> bool:
        found = record.get(attribute)
        if found is None:
            return operator == "!="
        if operator in ("==", "!="):
            if isinstance(found, bool):
                equal = value.lower() == str(found).lower()
            elif str(found).startswith("http"):
                equal = _same_href(str(found), value)
            else:
                equal = fnmatch.fnmatchcase(str(found), re.sub(r"([\[?])", r"[\1]", value))
            return equal == (operator == "==")
        try:
            left, right = float(found), float(value)
        except ValueError:
            left, right = str(found), value  # type: ignore[assignment]
        return {"=gt=": left > right, "=ge=": left >= right, "=lt=": left < right, "=le=": left <= right}[operator]

    return matches


def _same_href(found: str, value: str) -> bool:
    """Compare references by the id they end with: /api/vdc/X and /api/admin/vdc/X are the same, and so is X alone."""
    return found.rstrip("/").rsplit("/", 1)[-1] == value.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]


@dataclass(frozen=True)
class Page:
    """One page of a list."""

    items: list[Any]
    number: int
    size: int
    total: int

    @property
    def last(self) -> int:
        return max(1, -(-self.total // self.size))


def paginate(items: list[Any], parameters: Mapping[str, str], default: int = 25) -> Page:
    """Cut the page that `page` and `pageSize` ask for.

    Raises:
        ApiError: not numbers, or out of bounds.
    """
    numbers = []
    for key, fallback in (("page", 1), ("pageSize", default)):
        text = parameters.get(key, str(fallback))
        if not text.isdecimal() or int(text) < 1:
            raise bad_request(f"{key} must be a positive number, not {text!r}")
        numbers.append(int(text))
    number, size = numbers
    if size > MAX_PAGE:
        raise bad_request(f"pageSize must be at most {MAX_PAGE}, not {size}")
    return Page(items[(number - 1) * size : number * size], number, size, len(items))
