"""The same server in Ray Serve: replicas on many machines, each with the models of a folder.

    serve run exporter.serving.ray:build path=/models num_replicas=2

mounts the ASGI application of `exporter serve` in each replica. The gRPC proxy of Ray passes on
calls of the Open Inference Protocol with
`grpc_servicer_functions=["exporter.serving.ray.add_to_server"]`.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from ray import serve

from exporter.serving import inference
from exporter.serving.errors import NotReadyError, code_of, message_of
from exporter.serving.rpc_methods import Call, Service
from exporter.serving.server import App, settle_memory
from exporter.serving.settings import settings_of

# What is said of the deployment, not of the models.
_OF_DEPLOYMENT = frozenset(
    {
        "num_replicas",
        "autoscaling_config",
        "ray_actor_options",
        "max_ongoing_requests",
        "max_queued_requests",
        "user_config",
    }
)

_METHODS = (
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)


class Replica:
    """The models of a folder in a replica: all that are wanted, loaded before it takes calls.

    It looks at the folder when its `user_config` changes, and not by itself: so all replicas have
    the same versions. Clients cannot load and unload, which would reach one replica alone.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """A replica with these settings, by the names of `exporter serve`."""
        fixed = {"model_control": False, "poll_seconds": 0}
        self._given = {**settings, **fixed}
        settle_memory()
        self._app = App(settings_of(self._given))
        self._service = Service(self._app.core)
        self._app.registry.start()
        self._app.registry.is_settled.wait()

    async def __serve_build_asgi_app__(self) -> Any:
        return self._app.rest

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Look at the folder with other settings of versions, and swap what has changed.

        Args:
          user_config: `version_policy`, `models` or anything: each change of it is a look.
        """
        said = {key: user_config[key] for key in ("version_policy", "models") if key in user_config}
        repository = settings_of({**self._given, **said}).repository()
        await asyncio.to_thread(self._app.registry.look, repository)

    def check_health(self) -> None:
        """Say that a replica is not well.

        Raises:
          NotReadyError: if no model could be loaded.
        """
        if not self._app.core.is_ready():
            raise NotReadyError("no model of the folder could be loaded.")

    async def _called(self, method: str, request: Any, context: Any) -> Any:
        """A call that came through the gRPC proxy."""
        call = Call(context.invocation_metadata() and str(context.peer()))
        try:
            body = await self._service.methods[method](request.SerializeToString(), call)
        except Exception as error:
            context.set_code(grpc.StatusCode[code_of(error).grpc])
            context.set_details(message_of(error))
            raise
        return getattr(inference, f"{method}Response").FromString(body)


def _method(name: str) -> Callable[..., Any]:
    async def called(self: Replica, request: Any, grpc_context: Any) -> Any:
        return await self._called(name, request, grpc_context)  # of the same class

    called.__name__ = called.__qualname__ = name
    return called


for _name in _METHODS:
    setattr(Replica, _name, _method(_name))


def build(args: Mapping[str, Any]) -> Any:
    """The application of Ray Serve for a folder.

    Args:
      args: the settings of `exporter serve` by name, such as `path`, and of the deployment:
        `num_replicas`, `autoscaling_config`, `ray_actor_options`, `max_ongoing_requests`,
        `max_queued_requests`, and `user_config`, see `Replica.reconfigure`.
    """
    settings = {key: value for key, value in args.items() if key not in _OF_DEPLOYMENT}
    settings_of(settings)  # what cannot be is said here, and not by each replica
    options: dict[str, Any] = {
        "max_ongoing_requests": 256,
        "graceful_shutdown_timeout_s": 30,
        "user_config": {"revision": 0},
    }
    options |= {key: args[key] for key in _OF_DEPLOYMENT if key in args}
    deployment = serve.deployment(name="exporter", **options)
    return deployment(serve.ingress()(Replica)).bind(settings)


def add_to_server(servicer: Any, server: Any) -> None:
    """Lets a server of gRPC, as Ray's proxy has one, answer with the methods of a servicer."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=getattr(inference, f"{name}Request").FromString,
            response_serializer=getattr(inference, f"{name}Response").SerializeToString,
        )
        for name in _METHODS
    }
    handler = grpc.method_handlers_generic_handler(inference.SERVICE, handlers)
    server.add_generic_rpc_handlers((handler,))
