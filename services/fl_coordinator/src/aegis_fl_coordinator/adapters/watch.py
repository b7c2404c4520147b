"""A run's history as a stream: where it stands, its rounds, every change, one terminal event."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Final

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.clock import Clock
from aegis_common.rpc.times import timestamp
from aegis_fl_coordinator.adapters.convert import round_message, run_message
from aegis_fl_coordinator.domain.changes import Changes
from aegis_fl_coordinator.domain.errors import InvalidResumeToken
from aegis_fl_coordinator.domain.ports import Event, RunStore
from aegis_fl_coordinator.domain.run import TrainingRun

_MARGIN_S: Final = 5.0
_LOOK: Final = timedelta(seconds=30)


class Watcher:
    """Streams runs. The store is the truth; `changes` only says when to look."""

    def __init__(self, *, store: RunStore, changes: Changes, clock: Clock) -> None:
        self._store = store
        self._changes = changes
        self._clock = clock

    async def watch(
        self, run: TrainingRun, *, resume_token: str, time_remaining: Callable[[], float]
    ) -> AsyncIterator[pb.WatchTrainingRunResponse]:
        """Yield the run's events until it has ended, or until the call's time is nearly over.

        Args:
            run: The run; the caller may see it.
            resume_token: Token of the last event seen, or empty.
            time_remaining: Seconds until the call's deadline.

        Raises:
            InvalidResumeToken: The token is broken or another run's.
        """
        # Of a short deadline half is kept, so that even such a stream ends by `reconnect`.
        margin = min(_MARGIN_S, time_remaining() / 2)
        if resume_token:
            seen = _decode(resume_token, run)
        else:
            seen = self._store.last_event(run.run_id).seq
            for response in self._opening(run, seen):
                yield response
        while True:
            for event in self._store.events(run.run_id, after=seen):
                seen = event.seq
                yield _message(event, run)
            run = self._store.get_run(run.tenant, run.run_id)
            if run.ended and self._store.last_event(run.run_id).seq == seen:
                break
            left = time_remaining() - margin
            if left <= 0:
                yield self._terminal(run, seen, reconnect=pb.Reconnect())
                return
            await self._changes.wait(run.run_id, at_most=min(_LOOK, timedelta(seconds=left)))
        yield self._terminal(run, seen, end=run_message(run))

    def _opening(self, run: TrainingRun, until: int) -> list[pb.WatchTrainingRunResponse]:
        """Return the run as it stands, and the rounds that are done.

        The token of each says where to go on should the stream break right after it: no round is lost.
        """
        history = self._store.events(run.run_id, after=0)
        rounds = [event for event in history if event.seq <= until and event.report is not None]
        tokens = [*(event.seq - 1 for event in rounds), until]
        standing = pb.WatchTrainingRunResponse(
            event_time=timestamp(self._clock()), state_change=run_message(run, with_rounds=False)
        )
        responses = [standing, *(_message(event, run) for event in rounds)]
        for response, seq in zip(responses, tokens, strict=True):
            response.resume_token = _encode(run, seq)
        return responses

    def _terminal(
        self,
        run: TrainingRun,
        seen: int,
        *,
        end: pb.TrainingRun | None = None,
        reconnect: pb.Reconnect | None = None,
    ) -> pb.WatchTrainingRunResponse:
        return pb.WatchTrainingRunResponse(
            resume_token=_encode(run, seen),
            event_time=timestamp(run.end_time if end is not None and run.end_time else self._clock()),
            end=end,
            reconnect=reconnect,
        )


def _message(event: Event, run: TrainingRun) -> pb.WatchTrainingRunResponse:
    return pb.WatchTrainingRunResponse(
        resume_token=_encode(run, event.seq),
        event_time=timestamp(event.time),
        state_change=None if event.run is None else run_message(event.run, with_rounds=False),
        round=None if event.report is None else round_message(event.report),
    )


def _encode(run: TrainingRun, seq: int) -> str:
    text = json.dumps([_digest(run), seq], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(token: str, run: TrainingRun) -> int:
    try:
        digest, seq = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError) as error:
        raise InvalidResumeToken("resume_token cannot be read; take it from an event") from error
    if digest != _digest(run) or not isinstance(seq, int) or isinstance(seq, bool) or seq < 0:
        raise InvalidResumeToken(f"resume_token is not one of {run.name}", name=run.name)
    return seq


def _digest(run: TrainingRun) -> str:
    return hashlib.sha256(f"{run.tenant}/{run.run_id}".encode()).hexdigest()[:16]
