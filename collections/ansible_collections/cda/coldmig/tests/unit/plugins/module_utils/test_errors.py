# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import typing as t

import pytest
from ansible_collections.cda.coldmig.plugins.module_utils._errors import (
    FieldError,
    HttpError,
    InputError,
    Problem,
    StateError,
    fail_arguments,
)


@pytest.mark.parametrize("document", [None, [], "text", 7])
def test_anything_else_than_a_document_gives_a_problem_that_knows_its_status(document: t.Any) -> None:
    assert Problem.parse(document, 502) == Problem(status=502)


def test_problem_keeps_fields_and_extensions() -> None:
    document = {
        "type": "urn:coldmig:problem:invalid",
        "title": "Invalid",
        "status": 422,
        "detail": "",
        "errors": [{"field": "ttl_hours", "value": 0, "message": "must be from 1 to 8760"}, "broken"],
        "hint": "look here",
    }
    problem = Problem.parse(document, 422)
    assert problem.slug == "invalid"
    assert problem.errors == (FieldError("ttl_hours", "must be from 1 to 8760", 0),)
    assert problem.as_dict()["hint"] == "look here"


def test_type_of_another_vocabulary_has_no_slug() -> None:
    assert Problem.parse({"type": "https://example.com/problem"}, 400).slug == ""


def test_http_error_names_every_field() -> None:
    problem = Problem.parse(
        {
            "title": "Invalid",
            "errors": [
                {"field": "name", "value": "", "message": "too short"},
                {"field": "destination.vdc", "message": "missing"},
            ],
        },
        422,
    )
    error = HttpError(method="POST", url="https://gw/api", status=422, problem=problem)
    assert str(error).endswith(": Invalid: name (''): too short; destination.vdc: missing")


def test_status_without_a_phrase_is_shown_as_a_number() -> None:
    error = HttpError(method="GET", url="https://gw", status=499, problem=Problem())
    assert str(error) == "GET https://gw: 499"


def test_fail_arguments_hold_the_sentence_and_the_facts() -> None:
    assert fail_arguments(InputError("dest", "/x", "a file")) == {
        "msg": "dest: '/x' is not valid: a file",
        "field": "dest",
    }
    assert fail_arguments(StateError("no")) == {"msg": "no"}
    error = HttpError(method="GET", url="https://gw", status=404, problem=Problem(title="Not found", status=404))
    assert fail_arguments(error)["http_status"] == 404
    assert fail_arguments(error)["http_url"] == "https://gw"
