"""Every error of the REST layer as an RFC 9457 problem document (``application/problem+json``).

``type`` is ``urn:livephase:problem:<slug>``; the slug, title and status come from the error's class
(``livephase_devices.errors``, ``livephase.errors``) or from the HTTP status.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def finite(content: Any) -> Any:
    """Replace every number that JSON cannot carry (NaN, infinities) by None, in lists and mappings too."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        mapping = cast("Mapping[str, Any]", content)
        return {key: finite(value) for key, value in mapping.items()}
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        sequence = cast("Sequence[Any]", content)
        return [finite(value) for value in sequence]
    return content


class FiniteJSONResponse(JSONResponse):
    """JSON that every parser accepts: NaN and infinities become null."""

    def render(self, content: Any) -> bytes:
        """Encode as UTF-8."""
        return json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def problem(
    status: int,
    detail: str,
    *,
    slug: str | None = None,
    title: str | None = None,
    instance: str | None = None,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> FiniteJSONResponse:
    """Build a problem document.

    Parameters
    ----------
    status : int
        HTTP status.
    detail : str
        What happened and what to do.
    slug, title : str or None
        Kind of the problem; by default those of the HTTP status.
    instance : str or None
        Path of the request.
    errors : list of dict or None
        One ``{"pointer", "message"}`` for every wrong field.
    headers : mapping or None
        Further response headers.
    """
    phrase = HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": f"urn:livephase:problem:{slug or phrase.lower().replace(' ', '-')}",
        "title": title or phrase,
        "status": status,
        "detail": detail,
    }
    if instance is not None:
        body["instance"] = instance
    if errors:
        body["errors"] = errors
    return FiniteJSONResponse(body, status, dict(headers or {}), MEDIA_TYPE)


def of_error(error: LivephaseError, instance: str) -> FiniteJSONResponse:
    """Build the problem document of one of livephase's own errors."""
    return problem(error.status, str(error), slug=error.slug, title=error.title, instance=instance)


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""

    async def livephase_error(request: Request, error: Exception) -> Response:
        known = cast("LivephaseError", error)
        if known.status >= 500:
            log.warning("%s %s: %s", request.method, request.url.path, known)
        return of_error(known, request.url.path)

    async def http_error(request: Request, error: Exception) -> Response:
        known = cast("HTTPException", error)
        detail = known.detail
        if known.status_code == 404 and detail == "Not Found":
            detail = f"nothing is at {request.url.path}; the routes are listed at /api/v1/openapi.json"
        elif known.status_code == 405:
            detail = f"{request.method} is not possible on {request.url.path}"
        return problem(known.status_code, detail, instance=request.url.path, headers=known.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        known = cast("RequestValidationError", error)
        found = [_wrong_field(one) for one in known.errors()]
        return problem(
            422,
            "; ".join(f"{one['pointer'] or 'request'}: {one['message']}" for one in found),
            slug="validation",
            title="Request is wrong",
            instance=request.url.path,
            errors=found,
        )

    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(
            500,
            "an error that livephase does not know; the service's log has the details",
            slug="internal",
            title="Internal error",
            instance=request.url.path,
        )

    app.add_exception_handler(LivephaseError, livephase_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


def _wrong_field(error: Mapping[str, Any]) -> dict[str, str]:
    """One field that is wrong: RFC 6901 pointer below the part of the request, and the message."""
    place = cast("Sequence[str | int]", error.get("loc", ()))
    return {"pointer": "/".join(str(part) for part in place), "message": str(error.get("msg", "is wrong"))}
