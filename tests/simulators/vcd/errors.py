# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API answers when it refuses."""

from __future__ import annotations


class ApiError(Exception):
    """An answer with an Error document: HTTP status = majorErrorCode, and a minor code that clients act on."""

    def __init__(self, status: int, minor: str, message: str, *, tenant: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.minor = minor
        self.message = message
        self.tenant = tenant
        """What a tenant sees in place of the message; None is the message itself."""

    def for_tenants(self) -> ApiError:
        """The same error as a tenant sees it."""
        return ApiError(self.status, self.minor, self.tenant or self.message)


def bad_request(message: str) -> ApiError:
    """The request is wrong as it stands."""
    return ApiError(400, "BAD_REQUEST", message)


def forbidden(entity: str) -> ApiError:
    """No right, or no such entity: VCD does not say which."""
    return ApiError(
        403,
        "ACCESS_TO_RESOURCE_IS_FORBIDDEN",
        f"Either you need some or all of the following rights [Base] to perform operations for {entity} "
        "or the target entity is invalid.",
    )


def no_right(operation: str) -> ApiError:
    """The session's role may not do this to anything."""
    return ApiError(403, "ACCESS_TO_RESOURCE_IS_FORBIDDEN", f"This operation is denied: {operation}.")


def busy(name: str, entity: str, operation: str) -> ApiError:
    """A task runs on the entity. The major code really is 400."""
    return ApiError(400, "BUSY_ENTITY", f"The entity {name} ({entity}) is busy completing an operation {operation}.")


def duplicate(name: str) -> ApiError:
    """A name is taken."""
    return ApiError(400, "DUPLICATE_NAME", f"The VCD entity {name} already exists.")


def quota(what: str, limit: int, message: str) -> ApiError:
    """More than an organization may have."""
    return ApiError(400, "QUOTA_EXCEEDED", f"The {what} quota of {limit} would be exceeded: {message}")
