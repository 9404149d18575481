# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the API together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from coldmig_gateway.api import problems
from coldmig_gateway.api.body import BodyGuard
from coldmig_gateway.api.context import Context
from coldmig_gateway.api.problems import Problem, ProblemDocument
from coldmig_gateway.api.routes import agent, credentials, destinations, migrations, site, templates, tokens
from coldmig_gateway.config import Settings
from coldmig_gateway.store.database import Database
from coldmig_gateway.version import VERSION

PREFIX = "/api/v1"

_DESCRIPTION = """\
Cold migration of machines into VMware Cloud Director: the control plane of a site.

Every request but `/health` carries `Authorization: Bearer <token>`. Every error is a problem document (RFC 9457) whose
`type` is `urn:coldmig:problem:<kind>`. The copy itself goes through the data plane below `/data/v1/` of the same port,
which is not HTTP-API-like and is described apart.
"""


def create_app(context: Context) -> FastAPI:
    """The ASGI application of one site."""
    app = FastAPI(
        title="Cold migration gateway",
        description=_DESCRIPTION,
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.context = context
    problems.install(app)
    for part in (site, tokens, templates, credentials, agent, migrations, destinations):
        app.include_router(part.router, prefix=PREFIX)
    app.add_api_route("/data/{path:path}", _misdirected, methods=["GET", "HEAD", "POST"], include_in_schema=False)
    app.add_middleware(BodyGuard)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _misdirected(path: str) -> None:
    detail = "The copy needs a connection whose first request is for /data/v1/; open a new one."
    raise Problem(421, "misdirected-request", "Wrong connection", detail)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, without a site."""
    settings = Settings(state_dir=Path("/nonexistent"), names=["localhost"])
    return create_app(Context(settings, Database("sqlite://"))).openapi()


def _openapi(app: FastAPI) -> dict[str, Any]:
    document = FastAPI.openapi(app)
    # FastAPI's own form of validation errors is never given; ours is.
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if "ProblemDocument" not in schemas:
        schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs")
        schemas["ProblemDocument"] = schema
    return document
