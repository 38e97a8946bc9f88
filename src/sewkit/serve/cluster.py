"""The server on many machines: a Ray Serve deployment, each replica of which is the whole server with its own governor.

    serve run sewkit.serve.cluster:app model=runs/mine/model target_p95_ms=500 replicas=4 gpus=1

Ray starts replicas, passes requests and WebSockets on to them and replaces those that die; batches, operating points
and refusals are each replica's own affair. So that its governor sees the load, a replica takes requests as they come
and does not leave them waiting in Ray: beyond its cheapest operating point it answers 429, which a balancer or the
client tries again elsewhere.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sewkit.errors import MissingExtraError
from sewkit.serve.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

DRAIN_SECONDS = 120.0
"""For a replica to finish what it has when it is taken away."""


class ClusterSettings(Settings):
    """What every replica is told, and how many there are."""

    replicas: int | Literal["auto"] = 1
    """"auto" lets Ray follow the number of requests on their way."""
    cpus: float = Field(1.0, ge=0)
    """Of a replica, like `gpus`; the model's threads are `threads`."""
    gpus: float = Field(0.0, ge=0)

    @property
    def of_a_replica(self) -> Settings:
        """What one server is told."""
        return Settings.model_validate(self.model_dump(include=set(Settings.model_fields)))


def app(args: ClusterSettings) -> "Application":
    """The application for `serve run`, and for the `import_path` of a Serve configuration with the same arguments.

    Ray makes `args` of what it is told, as their annotation says: it has to be the class itself, not its name.
    Raises MissingExtraError.
    """
    try:
        from ray import serve
    except ImportError:
        raise MissingExtraError("a Ray Serve deployment", "cluster") from None
    settings = args.of_a_replica

    def build() -> "FastAPI":
        """In the replica, where the model is loaded."""
        from sewkit.serve.app import create_app

        return create_app(settings)

    deploy = serve.deployment(
        name="sewkit",
        num_replicas=args.replicas,
        max_ongoing_requests=settings.max_requests,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        health_check_timeout_s=30,
        ray_actor_options={"num_cpus": args.cpus, "num_gpus": args.gpus},
    )
    return deploy(serve.ingress(build)()).bind()
