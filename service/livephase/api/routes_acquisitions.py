"""Routes of runs: start, look at, cancel, and read their stores over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from livephase.acquisition.plan import AcquisitionPlan  # noqa: TC001 - FastAPI reads the annotation at run time
from livephase.api.problems import problem
from livephase.api.routes_service import Wired  # noqa: TC001 - FastAPI reads the annotation at run time
from livephase.api.schemas import Estimate, RunList, RunOut

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send

router = APIRouter(tags=["runs"])

_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {404: {"description": "No such run, or no such file in it."}}
IMMUTABLE: Final = "public, max-age=31536000, immutable"
CHANGING: Final = "no-cache"


@router.post(
    "/acquisitions",
    status_code=201,
    response_model=RunOut,
    responses={
        200: {"model": Estimate, "description": "With dry_run=true: what the plan needs. Nothing was started."},
        409: {"description": "A run has the microscope, or the key was used for another plan."},
        507: {"description": "The store cannot be created."},
    },
)
def start(
    plan: AcquisitionPlan,
    services: Wired,
    response: Response,
    dry_run: Annotated[bool, Query(description="Only say what the plan needs.")] = False,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="A retry with the same key gets the same run."),
    ] = None,
) -> Response | RunOut:
    """Start a run: one frame every ``interval_s``, raw and phase stored as OME-Zarr."""
    if dry_run:
        return Response(services.runs.estimate(plan).model_dump_json(), media_type="application/json")
    run = services.runs.start(plan, idempotency_key)
    response.headers["Location"] = f"/api/v1/acquisitions/{run.id}"
    return run


@router.get("/acquisitions")
def list_acquisitions(services: Wired) -> RunList:
    """List the runs in the data folder, the newest first."""
    return RunList(acquisitions=services.runs.list())


@router.get("/acquisitions/{run_id}", responses=_NOT_FOUND)
def read_acquisition(run_id: str, services: Wired) -> RunOut:
    """Return one run."""
    return services.runs.get(run_id)


@router.post(
    "/acquisitions/{run_id}/cancel",
    status_code=202,
    responses={**_NOT_FOUND, 409: {"description": "The run has ended already."}},
)
def cancel(run_id: str, services: Wired) -> RunOut:
    """Ask a run to end; what was recorded stays, what was not is recorded as missing."""
    return services.runs.cancel(run_id)


@router.head("/acquisitions/{run_id}/store/{path:path}", include_in_schema=False)
@router.get(
    "/acquisitions/{run_id}/store/{path:path}",
    response_class=FileResponse,
    responses={
        **_NOT_FOUND,
        206: {"description": "The range asked for."},
        416: {"description": "The range lies outside the file."},
    },
)
def read_store(run_id: str, path: str, request: Request, services: Wired) -> Response:
    """Return a file of a run's OME-Zarr; ranges are served, a chunk that is not there is 404."""
    file = _confined(services.runs.store(run_id), path)
    if file is None:
        raise HTTPException(404, f"run {run_id} has no file {path[:200]!r}")
    return StoreFile(file, request.url.path, is_shard=file.name.startswith("c."), folder=file.parent.parent.name)


class StoreFile(FileResponse):
    """A file of a store; image shards never change once they are there, everything else may.

    Parameters
    ----------
    file : Path
        A regular file.
    instance : str
        Path of the request, for problem documents.
    is_shard, folder
        Whether the name is that of a chunk, and in which group its array lies: ``frames/`` arrays grow.
    """

    def __init__(self, file: Path, instance: str, *, is_shard: bool, folder: str) -> None:
        caching = IMMUTABLE if is_shard and folder != "frames" else CHANGING
        media_type = "application/json" if file.suffix == ".json" else "application/octet-stream"
        super().__init__(file, media_type=media_type, headers={"Cache-Control": caching}, stat_result=file.stat())
        self._instance = instance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; a range that cannot be served is answered with a problem document."""
        refused: Message | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                refused = message
            elif refused is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refused is not None:
            given = {name.decode(): value.decode() for name, value in refused["headers"]}
            keep = {name: value for name, value in given.items() if name == "content-range"}
            detail = f"the range cannot be served: {dict(scope['headers']).get(b'range', b'')[:80]!r}"
            await problem(refused["status"], detail, instance=self._instance, headers=keep)(scope, receive, send)


def _confined(store: Path, requested: str) -> Path | None:
    """Return the regular file below a store that a request names; None where that leads outside or to nothing."""
    if "\0" in requested or "\\" in requested or ":" in requested:
        return None
    parts = requested.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts):
        return None
    root = store.resolve()
    try:
        file = root.joinpath(*parts).resolve()
        return file if file.is_relative_to(root) and file.is_file() else None
    except OSError:
        return None
