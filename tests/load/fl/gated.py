"""The same run on the grid of a measured year, gated and not: grams, hours, and what it does to accuracy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from load.carbon.measured import read_measured
from load.fl.learning import Job, Say
from load.fl.stack import Stack

from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_carbon.domain.timeseries import IntensitySeries
from aegis_common.rpc.call import Context
from aegis_fl_coordinator.testing.peers import Carbon, clean_grid

ROUND: Final = timedelta(minutes=30)
"""Time of the year that a round stands for; it uses ENERGY_KWH."""
ENERGY_KWH: Final = 1.0
STARTS: Final = ((2, 3), (5, 4), (8, 3), (11, 2))
PERCENTILE: Final = 30
_ROUNDS: Final = 24
_LOOK: Final = timedelta(minutes=30)
_LONGEST: Final = timedelta(hours=24)


class Year(Carbon):
    """A carbon service with the clock of a measured year: a round takes half an hour, and so does a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.series: IntensitySeries | None = None
        self.begin(None, datetime(2020, 1, 1, tzinfo=UTC), threshold=0.0)

    def begin(self, series: IntensitySeries | None, now: datetime, *, threshold: float) -> None:
        """Set the clock; without a series the grid is always clean."""
        self.series, self.started, self.now, self.threshold = series, now, now, threshold
        self.since = now
        self.grams = 0.0

    async def CheckSchedule(
        self,
        request: carbon_pb.CheckScheduleRequest,
        context: Context,
    ) -> carbon_pb.CheckScheduleResponse:
        answer = clean_grid()
        if self.series is None:
            return answer
        intensity = self.at(self.now)
        answer.intensity.g_per_kwh, answer.threshold_g_per_kwh = intensity, self.threshold
        if intensity > self.threshold and self.now - self.since < _LONGEST:
            self.now += _LOOK
            answer.decision, answer.reason = carbon_pb.DECISION_WAIT, carbon_pb.REASON_ABOVE_THRESHOLD
            answer.retry_after.FromMilliseconds(1)
            return answer
        self.grams += intensity * ENERGY_KWH
        self.now += ROUND
        self.since = self.now
        return answer

    def at(self, moment: datetime) -> float:
        """Return the intensity at *moment*, in gCO2e/kWh."""
        if self.series is None:
            return 0.0
        return float(self.series.values[int((moment - self.series.start) / self.series.step)])


async def table(stack: Stack, year: Year, data: Path, series_file: Path | None, say: Say) -> list[str]:
    """Print the same run, gated and not, from four days of the year on."""
    if series_file is None or not series_file.is_file():
        say(f"\ncarbon: skipped, there is no series at {series_file}")
        return []
    series = read_measured(series_file)
    threshold = float(np.percentile(np.asarray(series.values), PERCENTILE))
    say(
        f"\n{_ROUNDS} rounds of half an hour and {ENERGY_KWH:g} kWh each; gate at {threshold:.0f} g/kWh, the "
        f"{PERCENTILE}th percentile of the year, waiting {_LONGEST // timedelta(hours=1)} h at most"
    )
    say(
        "| from | ungated g | h | gated g | h | grams saved | accuracy | the same models |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    missed: list[str] = []
    for month, day in STARTS:
        start = datetime(2020, month, day, 9, tzinfo=UTC)
        rows: list[tuple[float, float, list[pb.Round]]] = []
        for limit in (np.inf, threshold):
            year.begin(series, start, threshold=float(limit))
            name = await Job(_ROUNDS).create(stack, data)
            done = [report async for report in stack.rounds(name)]
            rows.append((year.grams, (year.now - start) / timedelta(hours=1), done))
        (plain, plain_h, free), (grams, hours, gated) = rows
        same = [one.checkpoint_sha256 for one in free] == [one.checkpoint_sha256 for one in gated]
        accuracy = gated[-1].metrics["accuracy"]
        say(
            f"| {start:%d %b} | {plain:.0f} | {plain_h:.0f} | {grams:.0f} | {hours:.0f} | "
            f"{1 - grams / plain:.0%} | {accuracy:.4f} | {'yes' if same else 'NO'} |"
        )
        if not same:
            missed.append(f"from {start:%d %b}: the gate changed the model")
    year.begin(None, series.start, threshold=0.0)
    return missed
