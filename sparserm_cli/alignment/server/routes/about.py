"""Routes about the server: liveness, readiness, the model that it serves, and metrics."""

from typing import Any

from fastapi import APIRouter, Response

from sparserm_cli.alignment.server.gate import RefusedError
from sparserm_cli.alignment.server.metrics import CONTENT_TYPE
from sparserm_cli.alignment.server.schemas import Refusal
from sparserm_cli.alignment.server.scoring import Served
from sparserm_cli.alignment.server.service import Service

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """Answer that the process is alive."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"model": Refusal}})
async def ready(service: Served) -> dict[str, Any]:
    """Answer whether the server can score: the model is loaded and scored its probe as at the fit."""
    _require_open(service)
    return {"status": "ready", "probe": service.probe}


@router.get("/v1/models", responses={503: {"model": Refusal}})
async def models(service: Served) -> dict[str, Any]:
    """List the only model."""
    _require_open(service)
    card = {"id": service.name, "object": "model", "created": 0, "owned_by": "sparserm"}
    return {"object": "list", "data": [{**card, "max_model_len": service.model.max_length}]}


@router.get("/info", responses={503: {"model": Refusal}})
async def info(service: Served) -> dict[str, Any]:
    """Describe the reward model and the limits that are applied to its scores."""
    _require_open(service)
    return service.info()


@router.get("/metrics", response_class=Response)
async def metrics(service: Served) -> Response:
    """Return the metrics for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _require_open(service: Service) -> None:
    """Refuse while loading or draining."""
    if service.closed:
        raise RefusedError(503, service.closed)
