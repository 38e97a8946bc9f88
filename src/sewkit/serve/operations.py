"""The addresses for those who run the server: health, metrics, what it serves and how it is doing."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from sewkit.serve.engine import Engine
from sewkit.serve.errors import ApiError
from sewkit.serve.limits import require_key
from sewkit.serve.schema import ErrorAnswer

ERRORS: dict[int | str, dict[str, Any]] = {401: {"model": ErrorAnswer, "description": "No key, or another one."}}


class Model(BaseModel):
    """A served model."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "sewkit"


class Models(BaseModel):
    """All served models, of which there is one."""

    object: str = "list"
    data: list[Model]


class Status(BaseModel):
    """Whether all is well."""

    status: str


def operations_router(engine: Engine) -> APIRouter:
    """`/health`, `/ready` and `/metrics` for everybody; `/v1/models` and `/v1/state` with the key."""
    router = APIRouter()

    def has_key(request: Request) -> None:
        require_key(request, engine.settings)

    @router.get("/health")
    async def health() -> Status:
        """The server runs."""
        return Status(status="ok")

    @router.get("/ready", responses={503: {"model": ErrorAnswer, "description": "It is going down."}})
    async def ready() -> Status:
        """The server takes requests."""
        if engine.is_draining:
            raise ApiError(503, "the server is going down", code="draining")
        return Status(status="ready")

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        engine.refresh_gauges()
        return Response(engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models", dependencies=[Depends(has_key)], responses=ERRORS)
    async def models() -> Models:
        """What is served, in OpenAI's form."""
        return Models(data=[Model(id=engine.name)])

    @router.get(
        "/v1/models/{model:path}",
        dependencies=[Depends(has_key)],
        responses={**ERRORS, 404: {"model": ErrorAnswer, "description": "Another model."}},
    )
    async def model(model: str) -> Model:
        """One model, in OpenAI's form."""
        engine.expect_name(model)
        return Model(id=engine.name)

    @router.get("/v1/state", dependencies=[Depends(has_key)], responses=ERRORS)
    async def state() -> dict[str, Any]:
        """Queue, operating point and load now, and the model's points with their errors and costs."""
        return engine.state()

    return router
