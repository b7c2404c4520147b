"""Runs contenders side by side in interleaved rounds, and prints tables with ratios.

A machine is never as quiet as one thinks: what disturbs one contender must have the same chance to disturb
the others. So every round measures each of them once, in an order that turns, and the figures of all rounds
are put together. Compare ratios within one table; compare no absolute figure with another day's.
"""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

Samples = Mapping[str, Sequence[float]]
"""Figure name to what was measured, in its base unit: seconds, or whatever it counts."""

_WIDTH: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something that is measured.

    Attributes:
        name: Key of its samples.
        title: What it is, in words.
        unit: Unit to print.
        scale: Factor from the base unit to *unit*.
        aims: Percentile (`p50`, `p99`) to the most that it may be, in *unit*; of the first contender.
        leads: Contender to the least factor by which its p50 is to exceed that of the first one.
    """

    name: str
    title: str
    unit: str = "ms"
    scale: float = 1e3
    aims: Mapping[str, float] = field(default_factory=dict)
    leads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Somebody who is measured: *measure* makes one round."""

    name: str
    measure: Callable[[], Awaitable[Samples]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A comparison.

    Attributes:
        name: How it is called on the command line.
        about: What it shows, in a sentence.
        figures: What is measured.
        contenders: Sets them up, and tears them down; the first is ours, to which the ratios refer.
        rounds: How many rounds there are by default.
        peers: Distributions whose versions are printed.
    """

    name: str
    about: str
    figures: Sequence[Figure]
    contenders: Callable[[], AbstractAsyncContextManager[Sequence[Contender]]]
    rounds: int = 5
    peers: Sequence[str] = ()


@dataclass(slots=True)
class Report:
    """What came out.

    Attributes:
        samples: Figure to contender to samples, in the figure's base unit.
        missed: Aims that were not met, in words.
    """

    bench: Bench
    samples: dict[str, dict[str, list[float]]]
    missed: list[str] = field(default_factory=list)


async def run(bench: Bench, *, rounds: int) -> Report:
    """Measure every contender *rounds* times, interleaved."""
    samples: dict[str, dict[str, list[float]]] = {figure.name: {} for figure in bench.figures}
    async with bench.contenders() as contenders:
        for number in range(rounds):
            for contender in turned(contenders, number):
                for name, found in (await contender.measure()).items():
                    samples[name].setdefault(contender.name, []).extend(found)
    return Report(bench, samples)


def turned(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """Return the contenders in the order of round *number*, so that each is first once."""
    start = number % len(contenders)
    return [*contenders[start:], *contenders[:start]]


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the smallest sample that *share* percent of them do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-len(ordered) * share // _WIDTH) - 1)]


def tables(report: Report) -> list[str]:
    """Return the lines to print, and note the aims that were missed."""
    lines = [f"## {report.bench.name}: {report.bench.about}", "", machine(report.bench.peers), ""]
    for figure in report.bench.figures:
        found = report.samples[figure.name]
        if not found:
            continue
        lines += [f"### {figure.title} ({figure.unit})", ""]
        lines += ["| | p50 | p99 | max | n | p50 against ours |", "|---|---|---|---|---|---|"]
        ours = percentile(next(iter(found.values())), 50)
        for name, samples in found.items():
            p50, p99 = (percentile(samples, share) for share in (50, 99))
            row = [f"{value * figure.scale:.3f}" for value in (p50, p99, max(samples))]
            ratio = f"{p50 / ours:.1f}x" if ours > 0 else "-"
            lines.append(f"| {name} | {' | '.join(row)} | {len(samples)} | {ratio} |")
        lines += ["", *_aims(figure, next(iter(found.values())), report), *_leads(figure, found, report), ""]
    return lines


def _aims(figure: Figure, samples: Sequence[float], report: Report) -> list[str]:
    lines = []
    for name, most in figure.aims.items():
        value = percentile(samples, float(name.removeprefix("p"))) * figure.scale
        met = value <= most
        lines.append(f"aim {name} <= {most:g} {figure.unit}: {'met' if met else 'MISSED'} ({value:.3f})")
        if not met:
            report.missed.append(f"{report.bench.name}: {figure.title}: {name} is {value:.3f}, aim {most:g}")
    return lines


def _leads(figure: Figure, found: Mapping[str, Sequence[float]], report: Report) -> list[str]:
    lines, ours = [], percentile(next(iter(found.values())), 50)
    for name, least in figure.leads.items():
        factor = percentile(found[name], 50) / ours
        met = factor >= least
        lines.append(f"aim {least:g}x against {name}: {'met' if met else 'MISSED'} ({factor:.1f}x)")
        if not met:
            report.missed.append(
                f"{report.bench.name}: {figure.title}: {factor:.1f}x against {name}, aim {least:g}x"
            )
    return lines


def machine(peers: Sequence[str]) -> str:
    """Return on what this runs, and beside how much other work."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    have = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in peers)]
    return f"{os.cpu_count()} processors, load {load}; {', '.join(have)}"


Contenders = AsyncIterator[Sequence[Contender]]
