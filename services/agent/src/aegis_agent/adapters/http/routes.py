"""What an HTTP operation is: a verb and a path, the gRPC method whose access rule it obeys, and its handler.

    async def ready(request: Request) -> Response:
        model = request.parameters["model"]
        body = await request.body()             # read already, at most the route's `max_body_bytes`
        caller = current_call().principal       # the call went through the same chain as on gRPC
        raise UnknownModel.named(model, ...)    # an AegisError becomes the status and google.rpc.Status
        return JSONResponse({"ready": True})    # any of Starlette's responses, streaming ones too

    Route("GET", "/v2/models/{model}/ready", "/inference.GRPCInferenceService/ModelReady", ready)

Identity, authorization, deadline, audit record and span of a request are those of the named gRPC method: its
entry in the method table decides. `grpc-timeout` is honoured as on gRPC. When the client goes away, the
handler is cancelled. Handlers run in the event loop, so heavy work belongs elsewhere, as in a servicer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.rpc import status_pb2
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp

from aegis_common.errors import AegisError, ErrorKind, Scope

MAX_BODY_BYTES: Final = 12 << 20
"""Default limit of a request's body: 8 MiB of raw bytes in base64."""


class BodyTooLarge(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "BODY_TOO_LARGE"
    scope = Scope.CALL


class Request:
    """One HTTP request.

    Attributes:
        method: Verb in upper case.
        path: Decoded path.
        parameters: Values of the path template, decoded.
        query: Query parameters.
        headers: Headers; names in any case.
        state: For whatever the route's parts have to tell each other.
    """

    def __init__(
        self,
        scope: Mapping[str, Any],
        read: Callable[[], Awaitable[bytes]],
        *,
        parameters: Mapping[str, str],
    ) -> None:
        self.scope: Final = scope
        self.method: Final[str] = scope["method"]
        self.path: Final[str] = scope["path"]
        self.parameters: Final = parameters
        self.query: Final = QueryParams(scope["query_string"])
        self.headers: Final = Headers(raw=list(scope["headers"]))
        self.state: Final[dict[str, Any]] = {}
        self._read = read
        self._body: bytes | None = None

    async def body(self) -> bytes:
        """Return the body; it is read once.

        Raises:
            BodyTooLarge: It is beyond the route's limit.
        """
        if self._body is None:
            self._body = await self._read()
        return self._body


Handler = Callable[[Request], Awaitable[ASGIApp]]
"""Serves a request; a Starlette response is an ASGI application, and so is the MCP SDK."""
ErrorWriter = Callable[[status_pb2.Status, Request], Response | None]
"""Gives an error the form that a protocol has for it; None leaves it as JSON google.rpc.Status."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request asks for, where its path alone does not say.

    Attributes:
        grpc_method: `/package.Service/Method`, whose rule the request obeys.
        notes: What the audit log should know beyond the method; short, no user content.
        traceparent: W3C trace context from the body; one in the headers comes first.
    """

    grpc_method: str
    notes: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""


GrpcMethod = str | Callable[[Request], Awaitable[Operation]]
"""`/package.Service/Method`, or what finds it: it may read the body, before the chain has let anybody in."""


@dataclass(frozen=True, slots=True)
class Route:
    """One HTTP operation.

    Attributes:
        method: Verb in upper case.
        path: Path template: `/v2/models/{model}/infer`; `{name:path}` takes slashes too.
        grpc_method: Whose access rule, deadline and audit name the operation has.
        handler: Serves it.
        max_body_bytes: Largest body; more is refused with 413.
        default_timeout_s: Deadline of a request without `grpc-timeout`, in seconds; the gRPC method's default
            if omitted. The method's cap holds anyway.
        on_error: Form of this route's errors; JSON google.rpc.Status if omitted.
    """

    method: str
    path: str
    grpc_method: GrpcMethod
    handler: Handler
    max_body_bytes: int = field(default=MAX_BODY_BYTES, kw_only=True)
    default_timeout_s: float | None = field(default=None, kw_only=True)
    on_error: ErrorWriter | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Match:
    """What a request's verb and path lead to.

    Attributes:
        route: None when no route has the path and the verb.
        parameters: Values of the path template.
        allowed: Verbs that the path has; empty when no route has the path.
    """

    route: Route | None
    parameters: Mapping[str, str]
    allowed: frozenset[str] = frozenset()


class Router:
    """Finds the route of a request; the first one that fits."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = [(compile_path(route.path)[0], route) for route in routes]

    def match(self, method: str, path: str) -> Match:
        allowed = set()
        for pattern, route in self._routes:
            found = pattern.match(path)
            if found is None:
                continue
            if route.method == method:
                return Match(route, found.groupdict())
            allowed.add(route.method)
        return Match(None, {}, frozenset(allowed))
