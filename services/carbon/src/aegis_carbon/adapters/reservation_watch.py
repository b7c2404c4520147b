"""A reservation as a stream: how it stands, each new signal or plan, one terminal event."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis_carbon.adapters import reservation_keys as keys
from aegis_carbon.adapters.reservation_convert import reservation_message, signal_message
from aegis_carbon.adapters.reservation_news import News
from aegis_carbon.domain.reservations.errors import InvalidResumeToken
from aegis_carbon.domain.reservations.reservation import Reservation
from aegis_carbon.domain.reservations.service import Reservations
from aegis_carbon.domain.reservations.store import Ref

_MARGIN_S: Final = 5.0
_LOOK_S: Final = 5.0


class _Place(NamedTuple):
    """What a stream has told: up to which revision, and which signal."""

    revision: int
    token: int


class ReservationWatcher:
    """Streams reservations. The store is the truth; news only say when to look."""

    def __init__(self, reservations: Reservations, news: News) -> None:
        self._reservations = reservations
        self._news = news

    async def watch(
        self, ref: Ref, *, resume_token: str, time_remaining: Callable[[], float]
    ) -> AsyncIterator[pb.WatchReservationResponse]:
        """Yield what becomes of a reservation until it has ended, or the call's time is nearly over.

        Args:
            ref: The reservation.
            resume_token: Token of the last event seen, or empty.
            time_remaining: Seconds until the call's deadline.

        Raises:
            UnknownReservation: There is none.
            InvalidResumeToken: The token is broken or another reservation's.
        """
        # Of a short deadline half is kept, so that even such a stream ends by `reconnect`.
        margin = min(_MARGIN_S, time_remaining() / 2)
        with self._news.of(ref) as news:
            item = await self._reservations.get(ref)
            seen = _decode(resume_token, ref) if resume_token else None
            if seen is None:
                seen = _Place(item.revision, item.token)
                yield pb.WatchReservationResponse(
                    resume_token=_encode(ref, seen), reservation=reservation_message(item)
                )
            while True:
                if item.revision > seen.revision:
                    told, seen = seen, _Place(item.revision, item.token)
                    if item.open:
                        yield _change(ref, item, told, seen)
                if not item.open:
                    yield pb.WatchReservationResponse(
                        resume_token=_encode(ref, seen), end=reservation_message(item)
                    )
                    return
                left = time_remaining() - margin
                if left <= 0:
                    yield pb.WatchReservationResponse(
                        resume_token=_encode(ref, seen), reconnect=pb.ReservationReconnect()
                    )
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(_LOOK_S, left)):
                        await news.wait()
                news.clear()
                item = await self._reservations.get(ref)


def _change(ref: Ref, item: Reservation, told: _Place, seen: _Place) -> pb.WatchReservationResponse:
    token = _encode(ref, seen)
    if item.signal is not None and seen.token > told.token:
        return pb.WatchReservationResponse(resume_token=token, signal=signal_message(item.signal))
    return pb.WatchReservationResponse(resume_token=token, reservation=reservation_message(item))


def _encode(ref: Ref, place: _Place) -> str:
    text = json.dumps([_digest(ref), *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(token: str, ref: Ref) -> _Place:
    try:
        digest, *numbers = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        place = _Place(*numbers)
    except (ValueError, TypeError) as error:
        raise _unreadable() from error
    if not all(type(number) is int and number >= 0 for number in place):
        raise _unreadable()
    if digest != _digest(ref):
        raise InvalidResumeToken(f"resume_token is not one of reservations/{ref.id}", reservation=ref.id)
    return place


def _unreadable() -> InvalidResumeToken:
    return InvalidResumeToken("resume_token cannot be read; take it from an event")


def _digest(ref: Ref) -> str:
    return hashlib.sha256(keys.member(ref).encode()).hexdigest()[:16]
