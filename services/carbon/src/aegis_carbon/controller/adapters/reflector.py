"""Keeps the store of Jobs as the API server has them: lists, watches, and lists again when it must."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aegis_carbon.controller.adapters.client import Gone, KubeClient, NotFound, refusal
from aegis_carbon.controller.adapters.jobs import job_path
from aegis_carbon.controller.adapters.objects import Unreadable, is_going, job_of
from aegis_carbon.controller.domain.job import Job, JobStore
from aegis_carbon.controller.domain.ports import ApiUnavailable

PAGE: Final = 500
_WATCH_S: Final = 60
"""How long a watch lasts: a connection that is dead unseen is noticed soon after."""
_SILENCE_S: Final = _WATCH_S + 15.0
_AT_ONCE_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 30.0
_log: Final = logging.getLogger(__name__)


class Reflector:
    """Follows the Jobs of one namespace, or of all.

    Args:
        client: Calls the API server.
        namespace: Which; empty: all.
        store: Where they go; its scope is the namespace.
        sleep: Waits, in seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        store: JobStore,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client, self._namespace, self._store, self._sleep = client, namespace, store, sleep
        self._path = job_path(namespace)
        self._failures = 0
        # Where the watch goes on from; empty: with a list.
        self._version = ""

    async def run(self) -> None:
        """Follow until it is cancelled."""
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                if not await self._watch():
                    # A stream that ends without a word is not asked for again at once.
                    await self._pause("the API server ends the stream at once")
            except Gone:
                self._version = ""
            except (ApiUnavailable, NotFound) as error:
                await self._pause(error.message)

    async def _pause(self, why: str) -> None:
        if self._failures == 0:
            _log.warning("Jobs cannot be followed for now: %s", why)
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        await self._sleep(longest * random.uniform(0.5, 1))  # noqa: S311  # spreads controllers, keeps no secret

    async def _list(self) -> str:
        """Take every Job, page after page, all of one version, and return it."""
        jobs: list[Job] = []
        query = {"limit": str(PAGE)}
        while True:
            answer = await self._client.call("GET", self._path, query=query)
            try:
                items = [item for item in answer.get("items") or () if not is_going(item)]
                meta = answer["metadata"]
                version, more = str(meta["resourceVersion"]), meta.get("continue") or ""
            except (KeyError, TypeError, AttributeError) as error:
                raise ApiUnavailable(f"the API server answered with no list of Jobs: {error!r}") from error
            jobs += [job for item in items if (job := _read(item)) is not None]
            if not more:
                break
            query["continue"] = more
        self._store.replace(self._namespace, jobs)
        self._failures = 0
        _log.info("Jobs listed", extra={"namespace": self._namespace or "(all)"})
        return version

    async def _watch(self) -> bool:
        """Follow the changes until the stream ends; return false if it ended at once, without a word."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_S),
        }
        loop = asyncio.get_running_loop()
        began_s, said = loop.time(), False
        async with self._client.stream(self._path, query=query, silence_s=_SILENCE_S) as lines:
            async for line in lines:
                if line:
                    self._take(line)
                    said, self._failures = True, 0
        return said or loop.time() - began_s > _AT_ONCE_S

    def _take(self, line: str) -> None:
        """Take one event in, and go on from its version the next time."""
        try:
            event: dict[str, Any] = json.loads(line)
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                raise refusal(int(item.get("code", 0)), json.dumps(item).encode())
            version, uid = str(item["metadata"]["resourceVersion"]), item["metadata"].get("uid", "")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ApiUnavailable(f"the API server sent an event that is none: {error!r}") from error
        self._version = version
        if kind == "DELETED" or (kind != "BOOKMARK" and is_going(item)):
            self._store.remove(uid)
        elif kind != "BOOKMARK" and (job := _read(item)) is not None:
            self._store.put(self._namespace, job)


def _read(item: Any) -> Job | None:
    """Return a Job; None for one that cannot be read, which must not keep the others from being seen."""
    try:
        return job_of(item)
    except Unreadable as error:
        _log.error("a Job cannot be read and is left alone: %s", error)
        return None
