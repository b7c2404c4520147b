"""`subscriptions/listen`: who wants to know when the tools change, each caller only a few times at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY, ListenHandler, ServerEvent, ToolsListChanged
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult

from aegis_agent.adapters.mcp.tools import caller_of_call, time_left
from aegis_agent.domain.call import Caller
from aegis_agent.domain.registry import EVERYONE, Change, Registry
from aegis_common.errors import AegisError, ErrorKind, Scope

MAX_LISTENERS: Final = 16
"""Most streams of one caller at once, in this process."""


class TooManyListeners(AegisError):
    """The caller listens often enough."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_LISTENERS"
    scope = Scope.REPLICA


class Listening:
    """Tells callers of changes of the tools that are everyone's or their tenant's, on this replica."""

    def __init__(self, registry: Registry) -> None:
        self._streams = ListenHandler(_Changes(registry))
        self._listeners: Counter[tuple[str, str]] = Counter()

    async def serve(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Tell of changes until the client leaves or the method's time is over; then it subscribes again.

        Raises:
            TooManyListeners: The caller has as many streams as it may.
        """
        with self._counted(caller_of_call()):
            scope = asyncio.timeout(time_left().total_seconds())
            try:
                async with scope:
                    return await self._streams(ctx, params)
            except TimeoutError:
                if not scope.expired():
                    raise
                return SubscriptionsListenResult(_meta={SUBSCRIPTION_ID_META_KEY: ctx.request_id})

    def close(self) -> None:
        """End all streams, so that a drain need not wait for them."""
        self._streams.close()

    @contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        who = (caller.tenant, caller.subject)
        if self._listeners[who] >= MAX_LISTENERS:
            raise TooManyListeners(
                f"you listen {MAX_LISTENERS} times already; close one of those streams first",
                limit=str(MAX_LISTENERS),
                scope="replica",
            )
        self._listeners[who] += 1
        try:
            yield
        finally:
            self._listeners[who] -= 1
            if not self._listeners[who]:
                del self._listeners[who]


class _Changes:
    """The registry as the SDK's source of events; only this replica's tools change here."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def publish(self, event: ServerEvent) -> None:
        raise NotImplementedError(f"events come from the registry; nobody publishes {event!r}")

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        owners = (EVERYONE, caller_of_call().tenant)

        def tell(change: Change) -> None:
            if change.owner in owners:
                listener(ToolsListChanged())

        return self._registry.listen(tell)
