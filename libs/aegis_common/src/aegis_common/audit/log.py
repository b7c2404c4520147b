"""The audit log of one process: records are chained and written in order, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from aegis_common.audit.chain import Chain
from aegis_common.audit.format import NAME
from aegis_common.audit.record import AuditRecord
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import AegisError, ConfigurationError, ErrorKind
from aegis_common.signing import Signer

_BATCH: Final = 256
_GATHER_S: Final = 0.01
_RETRY_S: Final = 1.0
_RETRY_AFTER: Final = timedelta(seconds=5)
_log: Final = logging.getLogger(__name__)

Entry = tuple[datetime, AuditRecord]
"""When a call ended, and what is told of it."""
T = TypeVar("T")


class AuditUnavailable(AegisError):
    """The audit log cannot be written, so calls are refused rather than served unseen."""

    kind = ErrorKind.UNAVAILABLE
    reason = "AUDIT_UNAVAILABLE"


def _unavailable() -> AuditUnavailable:
    return AuditUnavailable("the audit log cannot be written at present", retry_after=_RETRY_AFTER)


class AuditLog:
    """Appends to one hash chain; use as an async context manager, or `start()` and `close()`.

    Args:
        directory: Where the chain file and its checkpoints go; made if absent.
        service: Name of the service: lower-case letters, digits and `-`.
        instance: Name of this process, stable over restarts, for example the pod's name; as *service*.
        key: Signs checkpoints.
        ship_dir: Second place for checkpoints; what is shipped there cannot be cut off unnoticed.
        checkpoint_every: Records after which a checkpoint is made; 1 or more.
        checkpoint_interval: Longest time that a written record stays without a checkpoint.
        queue_size: Records that may wait for the disk; more make `append` wait.
        append_timeout: How long `append` waits then.
        clock: Present time, for records.

    Raises:
        ConfigurationError: A name is not valid.
    """

    def __init__(
        self,
        directory: Path,
        *,
        service: str,
        instance: str,
        key: Signer,
        ship_dir: Path | None = None,
        checkpoint_every: int = 1000,
        checkpoint_interval: timedelta = timedelta(seconds=10),
        queue_size: int = 4096,
        append_timeout: timedelta = timedelta(seconds=5),
        clock: Clock = utc_now,
    ) -> None:
        for name in (service, instance):
            if not NAME.fullmatch(name):
                raise ConfigurationError(f"audit log: {name!r} is not 1 to 63 of a-z, 0-9 and -", name=name)
        self._directory, self._ship_dir = directory, ship_dir
        self._service, self._instance = service, instance
        self._signer = key
        self._every = checkpoint_every
        self._interval = checkpoint_interval.total_seconds()
        self._append_timeout = append_timeout.total_seconds()
        self._clock = clock
        self._queue: asyncio.Queue[Entry | None] = asyncio.Queue(queue_size)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._chain: Chain | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closing = False
        self._appending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._failures = 0
        self._failing = False
        self._ship_failures = 0

    @property
    def path(self) -> Path:
        """The chain file; only after `start()`."""
        if self._chain is None:
            raise RuntimeError("the audit log is not started")
        return self._chain.path

    @property
    def failures(self) -> int:
        """Attempts to write that failed so far; each was or is being tried again."""
        return self._failures

    @property
    def ship_failures(self) -> int:
        """Attempts to ship a checkpoint that failed so far."""
        return self._ship_failures

    async def start(self) -> None:
        """Begin a new epoch.

        Raises:
            ConfigurationError: The folder or the second place cannot be written.
        """
        try:
            self._chain = await self._run(self._open)
        except OSError as error:
            self._thread.shutdown()
            raise ConfigurationError(
                f"audit log: {error.filename or self._directory}: {error.strerror}", path=str(self._directory)
            ) from error
        self._writer = asyncio.create_task(self._write_forever(self._chain), name="audit-writer")

    def check(self) -> None:
        """Return when `append` would take a record now, or soon.

        Raises:
            AuditUnavailable: The last attempt to write failed and no more records can wait, or the log is
                not running.
        """
        self._check_running()
        if self._failing and self._queue.full():
            raise _unavailable()

    def _check_running(self) -> None:
        if self._writer is None or self._writer.done() or self._closing:
            raise AuditUnavailable("the audit log is not running")

    def take(self, record: AuditRecord) -> bool:
        """Hand *record* over for writing, as `append` does, unless that would have to wait.

        Returns:
            Whether it was taken.

        Raises:
            AuditUnavailable: The log is not running.
        """
        self._check_running()
        if self._queue.full():
            return False
        self._queue.put_nowait((self._clock(), record))
        return True

    async def append(self, record: AuditRecord) -> None:
        """Hand *record* over for writing; it is in order, and is never dropped once this returns.

        Raises:
            AuditUnavailable: The disk has not taken records for so long that no more can wait, or the log
                is not running; *record* is not taken.
        """
        self._check_running()
        entry = (self._clock(), record)
        self._appending += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._append_timeout):
                await self._queue.put(entry)
        except TimeoutError as error:
            raise _unavailable() from error
        finally:
            self._appending -= 1
            if not self._appending:
                self._idle.set()

    async def flush(self) -> None:
        """Return once all that was appended before is written to the file; not yet sealed."""
        await self._queue.join()

    async def close(self) -> None:
        """Write what waits, seal the chain, and end; further calls do nothing.

        Raises:
            AuditUnavailable: The disk does not take the rest, or not in order.
        """
        if self._writer is None or self._closing:
            return
        self._closing = True
        await self._idle.wait()  # those who wait for room come before the end mark
        try:
            async with asyncio.timeout(self._append_timeout):
                await self._queue.put(None)
            await self._writer
        except (OSError, TimeoutError) as error:
            self._writer.cancel()
            raise AuditUnavailable("the audit log could not be written to its end") from error
        finally:
            self._thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> Chain:
        chain = Chain(
            self._directory,
            service=self._service,
            instance=self._instance,
            signer=self._signer,
            ship_dir=self._ship_dir,
            now=self._clock(),
        )
        chain.seal(self._clock(), closed=False)
        chain.ship()
        return chain

    async def _write_forever(self, chain: Chain) -> None:
        try:
            await self._write_until_closed(chain)
            await self._run(lambda: chain.seal(self._clock(), closed=True))
            await self._ship(chain)
        finally:
            chain.close()

    async def _write_until_closed(self, chain: Chain) -> None:
        loop = asyncio.get_running_loop()
        seal_at = loop.time() + self._interval
        ended = False
        while not ended:
            batch = await self._next_batch(seal_at - loop.time())
            ended = None in batch
            entries = [entry for entry in batch if entry is not None]
            if entries:
                await self._persist(chain, entries)
            for _ in batch:
                self._queue.task_done()
            due = loop.time() >= seal_at
            unfinished = chain.seq > chain.sealed or chain.unshipped
            if chain.seq - chain.sealed >= self._every or (due and unfinished):
                await self._seal(chain)
            if due:
                seal_at = loop.time() + self._interval

    async def _next_batch(self, timeout_s: float) -> list[Entry | None]:
        """Return what waits, up to a limit; wait for the first entry no longer than *timeout_s*."""
        batch: list[Entry | None] = []
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                batch.append(await self._queue.get())
        except TimeoutError:
            return batch
        if batch[0] is not None and not self._closing:
            await asyncio.sleep(
                _GATHER_S
            )  # one write for many calls: a hop to the thread costs more than a write
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _persist(self, chain: Chain, entries: list[Entry]) -> None:
        while True:
            try:
                await self._run(
                    lambda: chain.write([("call", time, record.to_json()) for time, record in entries])
                )
            except OSError:
                self._failures += 1
                self._failing = True
                _log.exception("audit log cannot be written, trying again", extra={"path": str(chain.path)})
                if self._closing:
                    raise
            else:
                self._failing = False
                return
            await asyncio.sleep(_RETRY_S)

    async def _seal(self, chain: Chain) -> None:
        try:
            if chain.seq > chain.sealed:
                await self._run(lambda: chain.seal(self._clock(), closed=False))
        except OSError:
            self._failures += 1
            _log.exception("audit checkpoint cannot be written", extra={"path": str(chain.path)})
            return
        await self._ship(chain)

    async def _ship(self, chain: Chain) -> None:
        try:
            await self._run(chain.ship)
        except OSError:
            self._ship_failures += 1
            _log.exception("audit checkpoint cannot be shipped", extra={"path": str(self._ship_dir)})

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
