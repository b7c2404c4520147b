"""The harness: everybody has their turn, and the figures are what they are called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from load.__main__ import found
from load.harness import Bench, Contender, Figure, Samples, percentile, run, tables


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 1), (1, 1), (50, 50), (50.5, 51), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], share) == expected


async def test_rounds_are_interleaved_and_each_contender_begins_once() -> None:
    order: list[str] = []

    def contender(name: str, value: float) -> Contender:
        async def measure() -> Samples:
            order.append(name)
            return {"figure": [value]}

        return Contender(name=name, measure=measure)

    @asynccontextmanager
    async def contenders() -> AsyncIterator[Sequence[Contender]]:
        yield [contender("ours", 0.002), contender("theirs", 0.006)]

    figure = Figure(name="figure", title="A figure", aims={"p50": 1, "p99": 20})
    bench = Bench(name="b", about="about", figures=[figure], contenders=contenders)

    report = await run(bench, rounds=2)
    lines = tables(report)

    assert order == ["ours", "theirs", "theirs", "ours"]
    assert "| theirs | 6.000 | 6.000 | 6.000 | 2 | 3.0x |" in lines
    assert "aim p50 <= 1 ms: MISSED (2.000)" in lines
    assert "aim p99 <= 20 ms: met (2.000)" in lines
    assert report.missed == ["b: A figure: p50 is 2.000, aim 1"]


def test_every_bench_of_the_folder_can_be_found() -> None:
    pytest.importorskip("pebble")

    assert {"executor"} <= found().keys()


async def test_a_lead_that_is_too_small_is_missed() -> None:
    def contender(name: str, value: float) -> Contender:
        async def measure() -> Samples:
            return {"figure": [value]}

        return Contender(name=name, measure=measure)

    @asynccontextmanager
    async def contenders() -> AsyncIterator[Sequence[Contender]]:
        yield [contender("ours", 0.002), contender("slow", 0.006), contender("quick", 0.003)]

    figure = Figure(name="figure", title="A figure", leads={"slow": 3, "quick": 2})
    bench = Bench(name="b", about="about", figures=[figure], contenders=contenders)

    report = await run(bench, rounds=1)
    lines = tables(report)

    assert "aim 3x against slow: met (3.0x)" in lines
    assert "aim 2x against quick: MISSED (1.5x)" in lines
    assert report.missed == ["b: A figure: 1.5x against quick, aim 2x"]
