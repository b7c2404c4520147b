"""A picture of a training run: metrics by round, and below them the grid and what was emitted."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageDraw, ImageFont

from aegis_client.cli.output import short

if TYPE_CHECKING:
    from aegis_client.round_forms import Round
    from aegis_client.training_forms import TrainingRun

WIDTH: Final = 1000
HEIGHT: Final = 640
_SCALE: Final = 2
"""Drawn larger and then reduced, so that slanted lines are smooth."""
_LEFT, _RIGHT = 80, 920
_INK: Final = "#222222"
_FAINT: Final = "#dddddd"
_COLOURS: Final = ("#1f5fa8", "#b5500c")
_CLEAN, _DIRTY, _UNKNOWN = "#4c9f58", "#c9803a", "#b0b0b0"
_LEGEND: Final = ((_CLEAN, "clean"), (_DIRTY, "not clean"), (_UNKNOWN, "threshold"))
_GRAMS: Final = "#5b3a8c"


@dataclass(frozen=True, slots=True)
class Axis:
    """A vertical axis: values from *low* to *high* between the pixels *bottom* and *top*."""

    low: float
    high: float
    top: int
    bottom: int

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def ticks(self) -> list[float]:
        """Return four to eight round values within the axis."""
        step = _step((self.high - self.low) / 5)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Canvas:
    """Draws in the coordinates of the finished picture."""

    def __init__(self, rounds: Sequence[int]) -> None:
        self._image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._rounds = rounds

    def x(self, number: float) -> float:
        """Return where a round stands."""
        first, last = self._rounds[0], self._rounds[-1]
        return _LEFT + (number - first + 0.5) / (last - first + 1) * (_RIGHT - _LEFT)

    @property
    def bar(self) -> float:
        """Width of a round's bar."""
        return max((_RIGHT - _LEFT) / (self._rounds[-1] - self._rounds[0] + 1) * 0.7, 1.0)

    def text(
        self, x: float, y: float, text: str, *, anchor: str = "lm", size: int = 13, fill: str = _INK
    ) -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((x * _SCALE, y * _SCALE), text, fill=fill, font=font, anchor=anchor)

    def line(self, points: Iterable[tuple[float, float]], fill: str, width: float = 1) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=fill, width=round(width * _SCALE), joint="curve")

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: str) -> None:
        self._draw.rectangle(
            [x0 * _SCALE, min(y0, y1) * _SCALE, x1 * _SCALE, max(y0, y1) * _SCALE], fill=fill
        )

    def dot(self, x: float, y: float, fill: str, radius: float = 3) -> None:
        box = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self._draw.ellipse(box, fill=fill)

    def axis(self, axis: Axis, *, left: bool, fill: str) -> None:
        """Label the values of an axis; the left one has a grid."""
        for value in axis.ticks():
            y = axis.y(value)
            if left:
                self.line([(_LEFT, y), (_RIGHT, y)], _FAINT)
            place = _LEFT - 8 if left else _RIGHT + 8
            self.text(place, y, f"{value:g}", anchor="rm" if left else "lm", fill=fill)

    def rounds(self, y: float) -> None:
        """Label the rounds below a panel."""
        step = max(int(_step(len(self._rounds) / 12)), 1)
        for number in self._rounds:
            if number % step == 0 or len(self._rounds) <= 12:
                self.text(self.x(number), y + 14, str(number), anchor="mm")
        self.line([(_LEFT, y), (_RIGHT, y)], _INK)

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(buffer, "PNG")
        return buffer.getvalue()


def chart(run: TrainingRun, rounds: Sequence[Round], metrics: Sequence[str]) -> bytes:
    """Return the picture as PNG.

    Args:
        run: The run.
        rounds: Its rounds, at least one, in order.
        metrics: Names of one or two metrics that some round has.
    """
    canvas = Canvas([report.number for report in rounds])
    canvas.text(_LEFT, 24, f"{short(run.name)}  {run.app}  {run.state}", size=17)
    _metrics(canvas, rounds, metrics)
    _carbon(canvas, rounds)
    return canvas.png()


def _metrics(canvas: Canvas, rounds: Sequence[Round], names: Sequence[str]) -> None:
    top, bottom = 84, 340
    for place, name in enumerate(names):
        points = [
            (report.number, report.metrics[name])
            for report in rounds
            if math.isfinite(report.metrics.get(name, math.nan))
        ]
        axis = _axis([value for _, value in points], top, bottom)
        canvas.axis(axis, left=place == 0, fill=_COLOURS[place])
        anchor = "lm" if place == 0 else "rm"
        canvas.text(_LEFT if place == 0 else _RIGHT, 60, name, anchor=anchor, fill=_COLOURS[place])
        drawn = [(canvas.x(number), axis.y(value)) for number, value in points]
        canvas.line(drawn, _COLOURS[place], 2)
        if len(drawn) <= 60:
            for x, y in drawn:
                canvas.dot(x, y, _COLOURS[place])
    canvas.rounds(bottom)


def _carbon(canvas: Canvas, rounds: Sequence[Round]) -> None:
    top, bottom = 420, 590
    canvas.text(_LEFT, 396, "grid at the start, gCO2e/kWh:")
    for place, (colour, label) in enumerate(_LEGEND):
        left = _LEFT + 210 + place * 100
        canvas.box(left, 390, left + 12, 402, colour)
        canvas.text(left + 18, 396, label)
    known = [(report, report.gate) for report in rounds if report.gate]
    values = [gate.intensity_g_per_kwh for _, gate in known if gate.intensity_g_per_kwh is not None]
    limits = [gate.threshold_g_per_kwh for _, gate in known if gate.threshold_g_per_kwh is not None]
    axis = _axis([0.0, *values, *limits], top, bottom)
    canvas.axis(axis, left=True, fill=_INK)
    half = canvas.bar / 2
    for report, gate in known:
        x = canvas.x(report.number)
        if gate.intensity_g_per_kwh is not None:
            colour = _CLEAN if gate.clean else _DIRTY
            canvas.box(x - half, axis.y(gate.intensity_g_per_kwh), x + half, bottom, colour)
        if gate.threshold_g_per_kwh is not None:
            y = axis.y(gate.threshold_g_per_kwh)
            canvas.line([(x - half * 1.4, y), (x + half * 1.4, y)], _UNKNOWN, 2)
    _grams(canvas, rounds, top, bottom)
    canvas.rounds(bottom)
    canvas.text((_LEFT + _RIGHT) / 2, bottom + 34, "round", anchor="mm")


def _grams(canvas: Canvas, rounds: Sequence[Round], top: int, bottom: int) -> None:
    found = [(one.number, one.energy.grams) for one in rounds if one.energy and one.energy.grams is not None]
    if not found:
        canvas.text(_RIGHT, 396, "emissions not known", anchor="rm", fill=_GRAMS)
        return
    about = "about " if any(one.energy.estimated for one in rounds if one.energy) else ""
    total = sum(grams for _, grams in found)
    missing = len(rounds) - len(found)
    without = f", {missing} rounds not known" if missing else ""
    canvas.text(_RIGHT, 396, f"emitted, g: {about}{total:.3g} in all{without}", anchor="rm", fill=_GRAMS)
    axis = _axis([0.0, *(grams for _, grams in found)], top, bottom)
    canvas.axis(axis, left=False, fill=_GRAMS)
    points = [(canvas.x(number), axis.y(grams)) for number, grams in found]
    canvas.line(points, _GRAMS, 1.5)
    for x, y in points:
        canvas.dot(x, y, _GRAMS, 2.5)


def _axis(values: Sequence[float], top: int, bottom: int) -> Axis:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low if low == 0 else low - margin, high + margin, top, bottom)


def _step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least *least*."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
