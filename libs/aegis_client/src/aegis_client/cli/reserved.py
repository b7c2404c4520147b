"""The reservation that `aegis carbon run` holds: it says what a pacer says, as the service tells it."""

from __future__ import annotations

import asyncio
import secrets
import threading
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_client.carbon_plans import PlannedJob
from aegis_client.cli.places import Place
from aegis_client.cli.state import CliState
from aegis_client.client import AsyncClient
from aegis_client.errors import AegisApiError, AegisClientError
from aegis_client.pacing import Course
from aegis_client.reservation_forms import Reservation
from aegis_client.reservation_hold import ReservationHold

_TICK: Final = timedelta(seconds=0.25)
_LEAVING_S: Final = 5.0
_LATE: Final = "INFEASIBLE_JOB"
_DENIED: Final = "PERMISSION_DENIED"


class Reserved:
    """Holds a reservation in a thread of its own.

    Args:
        state: How to reach the service.
        job: What is to be run; its deadline is set.
        place: Where a job without zones runs.
        pool: Pool whose capacity it takes.
        on_missing: When it starts without a forecast.

    Attributes:
        fault: Why there is no reservation; empty where there is one.
    """

    def __init__(self, state: CliState, job: PlannedJob, place: Place, *, pool: str, on_missing: str) -> None:
        self._state, self._job, self._place = state, job, place
        self._pool, self._on_missing = pool, on_missing
        self._name = f"aegis-run-{secrets.token_hex(8)}"
        self._thread = threading.Thread(target=self._held, daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._hold: ReservationHold | None = None
        self._refused: AegisClientError | None = None
        self._over = False
        self._running = False
        self._worked = timedelta(0)
        self._why = ""
        self.fault = ""

    def begin(self) -> bool:
        """Reserve; return whether there is a reservation.

        Raises:
            AegisApiError: The service refuses the job for good; for example its zone, or the pool is full.
        """
        self._thread.start()
        self._ready.wait()
        if self._refused is not None:
            raise self._refused
        return not self.fault

    @property
    def reservation(self) -> Reservation | None:
        """The reservation as it stands."""
        return self._hold.reservation if self._hold else None

    def course(self, now: datetime, *, worked: timedelta, started: bool) -> Course:
        """Return what to do at *now*, as `Pacer.course` does.

        Raises:
            AegisClientError: Another holder runs the work, or the reservation was cancelled before its start.
        """
        self._worked = worked
        if self._refused is not None and not started:
            raise self._refused
        found = self.reservation
        if self._over or found is None:
            return Course(True, None, "its reservation has ended")
        fault = f"; nobody answers: {self._hold.fault}" if self._hold and self._hold.fault else ""
        why = self._why if self._running else (found.state_message or "waits for cleaner power")
        return Course(self._running, now + _TICK, why + fault, found.plan)

    def close(self) -> None:
        """Report the end of the work, or give the reservation back."""
        if self._loop is not None and self._hold is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._hold.end)
            self._thread.join(_LEAVING_S)

    def _held(self) -> None:
        try:
            asyncio.run(self._follow())
        except AegisApiError as error:
            # What is late already runs all the same, unless that would be beyond the capacity of a pool.
            if not self._pool and (error.reason == _LATE or error.code == _DENIED):
                self.fault = error.reason or error.code
            else:
                self._refused = error
        except AegisClientError as error:
            self._refused = error
        finally:
            self._over = True
            self._ready.set()

    async def _follow(self) -> None:
        job = self._job
        if self._place:
            job = replace(job, zones=[await asyncio.to_thread(self._zone)])
        async with (
            AsyncClient(self._state.load_profile()) as client,
            ReservationHold(
                client,
                job,
                pool=self._pool,
                on_missing=self._on_missing,
                holder=self._name,
                worked=lambda: self._worked,
            ) as hold,
        ):
            if hold.reservation is None:
                self.fault = hold.fault
                return
            self._loop, self._hold = asyncio.get_running_loop(), hold
            self._ready.set()
            async for order in hold:
                signal = hold.signal
                told = signal is not None and signal.token == order.token and not order.by_itself
                self._why = signal.message if signal and told else "latest start"
                self._running = order.effect != "SUSPEND"
            if hold.reservation.state == "CANCELLED":
                self._refused = AegisClientError(f"{hold.reservation.name} was cancelled")

    def _zone(self) -> str:
        with self._state.client() as client:
            return self._place.zone(client)
