"""`make bench-carbon`: prints what the forecast, the planner and the published experiments come to."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Final

from load.bench_planner import BENCH
from load.carbon import paper, pools, project, skill
from load.carbon.measured import read_measured, slots
from load.harness import run, tables

GERMANY: Final = "bb9aa67ed4ce191d8fa0d48346c0c6c0fa8fe82f8e4c94e7cf1c8156c7fb001c"
PARTS: Final = ("forecast", "planner", "paper", "pools")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-carbon", description=__doc__)
    parser.add_argument("series", type=Path, help="CSV file of 2020, columns `Time,Carbon Intensity`")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    parts = options.parts or PARTS
    series, missed = read_measured(options.series), []
    say(f"# {options.series.name}: {len(series.values)} half hours from {series.start:%Y-%m-%d}")
    if "forecast" in parts:
        judged = skill.Judged(series, slots(series, paper.YEAR, (4, 1), (12, 28)))
        missed += skill.table(judged, say)
    if "planner" in parts:
        report = asyncio.run(run(BENCH, rounds=BENCH.rounds))
        say("\n" + "\n".join(tables(report)))
        missed += report.missed
    experiment = paper.Experiment(series)
    if "paper" in parts:
        missed += paper.table(experiment, say, published=_is_german(options.series))
        project.table(series, experiment, say)
    if "pools" in parts:
        pools.table(series, experiment, say)
    for line in missed:
        say(f"MISSED: {line}")
    return 1 if missed else 0


def _is_german(path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == GERMANY


if __name__ == "__main__":
    sys.exit(main())
