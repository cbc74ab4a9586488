"""Routes of models: which there are, how they fit the microscope, and which one is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from livephase.api.routes_service import Wired  # noqa: TC001 - FastAPI reads the annotation at run time
from livephase.api.schemas import ActiveModel, ModelList  # noqa: TC001 - as above

if TYPE_CHECKING:
    from livephase.api.services import Services

router = APIRouter(tags=["models"])


@router.get("/models")
def models(services: Wired) -> ModelList:
    """List the models that the service knows, with valid ranges, figures, and how they fit the present microscope."""
    return _described(services)


@router.put(
    "/models/active",
    responses={
        404: {"description": "No model has that name."},
        409: {"description": "A run has the microscope, or another change of the model is going on."},
        503: {"description": "The model's worker did not start; the model before stays in use."},
    },
)
def activate(wanted: ActiveModel, services: Wired) -> ModelList:
    """Go over to another model; done when frames are computed by it. Live mode goes on meanwhile."""
    services.activate(services.models.find(wanted.name))
    return _described(services)


def _described(services: Services) -> ModelList:
    return services.models.describe(services.engine.card, services.defocus_um())
