# SPDX-License-Identifier: GPL-3.0-or-later
"""What the bodies have in common: strict models, bounded texts and numbers, pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from coldmig_gateway.config import ORGANIZATION
from coldmig_gateway.store.paging import PageRequest

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MAX_INTEGER = (1 << 63) - 1  # what both databases can hold


class Input(BaseModel):
    """A body that is sent to us: exact types, and nothing that we do not know."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Output(BaseModel):
    """A body that we give."""

    model_config = ConfigDict(from_attributes=True)


def _without_controls(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters or line breaks")
    return text


def _cleaned(value: object) -> object:
    """Firmware and disks say odd things of themselves; those must not keep a machine out, nor reach a terminal."""
    return _CONTROL.sub(" ", value).strip() if isinstance(value, str) else value


Line = Annotated[str, AfterValidator(_without_controls)]


@dataclass(frozen=True, slots=True)
class Matching:
    """A constraint on a text: a regular expression for all of it, and in words what that allows."""

    pattern: str
    allowed: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check after the type and the length."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Tell the expression to readers of the OpenAPI document."""
        return {**handler(schema), "pattern": f"^{self.pattern}$"}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text):
            raise ValueError(f"must be {self.allowed}")
        return text


Label = Annotated[Line, StringConstraints(min_length=1, max_length=128)]
Description = Annotated[Line, StringConstraints(max_length=200)]
Found = Annotated[str, BeforeValidator(_cleaned), StringConstraints(max_length=256)]
Message = Annotated[str, BeforeValidator(_cleaned), StringConstraints(max_length=2000)]
Slug = Annotated[str, Matching(r"[a-z0-9][a-z0-9-]{0,63}", "1 to 64 lower-case letters, digits and hyphens")]
SimpleName = Annotated[
    str,
    Matching(ORGANIZATION.pattern, "1 to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit"),
]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]

# Less than a chunk in a quarter of a minute is not a copy any more.
BytesPerSecond = Annotated[int, Field(ge=65_536, le=MAX_INTEGER)]


class FailureInput(Input):
    """Why a migration is given up: a word to decide by, and what people should read."""

    reason: Slug
    detail: Message


ItemT = TypeVar("ItemT")


class PageOf(BaseModel, Generic[ItemT]):
    """A part of a list. Ask for the rest with `?after=<next>` until `next` is null."""

    items: list[ItemT]
    next: str | None = Field(description="Cursor of the next page; null on the last one")


def _page_request(
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many items at most")] = 100,
) -> PageRequest:
    return PageRequest(after, limit)


Paged = Annotated[PageRequest, Depends(_page_request)]
