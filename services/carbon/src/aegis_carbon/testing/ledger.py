"""Usages and a grid that tests of the ledger make."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.series import HALF_HOUR
from aegis_carbon.testing.uk_api import Answer, Request, moment, row
from aegis_common.rpc.times import timestamp


def usage(clock: ManualClock, usage_id: str, *, hours: float = 1, ago: float = 0, **fields: Any) -> pb.Usage:
    """Return an hour of one core, ended *ago* hours before the present, unless *fields* say otherwise."""
    end = clock.now - timedelta(hours=ago)
    return pb.Usage(
        **{
            "id": usage_id,
            "kind": pb.USAGE_KIND_JOB,
            "start_time": timestamp(end - timedelta(hours=hours)),
            "end_time": timestamp(end),
            "cpu_seconds": 3600,
            **fields,
        }
    )


class Grid:
    """A grid as the UK API tells of it: measured values come an hour late, forecasts are 50 g too high."""

    def __init__(self, clock: ManualClock, *, value: float = 200.0) -> None:
        self._clock = clock
        self.value = value
        self.late = timedelta(hours=1)
        self.down = False

    def __call__(self, request: Request) -> Answer:
        if self.down:
            return Answer(None, 400)
        parts = request.path.strip("/").split("/")
        parts = parts[1:] if parts[0] == "regional" else parts
        if len(parts) == 1:
            start = end = self._clock.now
        else:
            start = moment(parts[1])
            end = start + timedelta(days=2) if parts[2] == "fw48h" else moment(parts[2])
        first = start - (start - moment("2026-01-01T00:00Z")) % HALF_HOUR
        rows: list[dict[str, Any]] = []
        while first < end or not rows:
            out = first + HALF_HOUR + self.late <= self._clock.now
            value = self.at(first)
            rows.append(row(first, forecast=value + 50, actual=value if out else None))
            first += HALF_HOUR
        return Answer({"data": rows})

    def at(self, start: datetime) -> float:  # noqa: ARG002  # other grids tell by it
        """Return the intensity of the slot that begins at *start*."""
        return self.value
