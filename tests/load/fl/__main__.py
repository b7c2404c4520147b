"""`make bench-fl`: prints rounds to the published accuracy, and what kills, poison, noise and the grid do."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Final

from load.fl import gated, learning
from load.fl.stack import stack

PARTS: Final = ("iid", "killed", "poisoned", "private", "carbon", "shards")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-fl", description=__doc__)
    parser.add_argument("data", type=Path, help="MNIST as npz: x_train, y_train, x_test, y_test")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--series", type=Path, help="CSV file of a year, columns `Time,Carbon Intensity`")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to N - 1 of the published runs")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not options.data.is_file():
        say(f"skipped: there is no MNIST at {options.data}; name the file: make bench-fl MNIST=file.npz")
        return 0
    if importlib.util.find_spec("torch") is None:
        say("skipped: torch is not installed; make setup installs it")
        return 0
    with tempfile.TemporaryDirectory(prefix="aegis-bench-fl-") as folder:
        missed = asyncio.run(_run(options, Path(folder)))
    for line in missed:
        say(f"MISSED: {line}")
    return 1 if missed else 0


async def _run(options: argparse.Namespace, folder: Path) -> list[str]:
    parts, data, missed = options.parts or PARTS, options.data.resolve(), []
    seeds = range(options.seeds)
    carbon = gated.Year()  # type: ignore[abstract]  # nothing else is called
    async with stack(folder, carbon) as running:
        if "iid" in parts or "shards" in parts:
            say(
                "| split | seed | rounds to 97 % | paper | best accuracy | s/round |\n"
                "|---|---|---|---|---|---|"
            )
        for split in ("iid", "shards"):
            if split in parts:
                missed += await learning.published(running, data, say, split, seeds)
        if "killed" in parts:
            missed += await learning.killed(running, data, say)
        if "poisoned" in parts:
            say("\n| 10 nodes, 8 rounds | accuracy | one of them poisoned |\n|---|---|---|")
            missed += await learning.poisoned(running, data, say)
        if "private" in parts:
            say(
                "\n| noise multiplier | epsilon | delta | accuracy, 100 nodes, 30 rounds |\n|---|---|---|---|"
            )
            missed += await learning.private(running, data, say)
        if "carbon" in parts:
            missed += await gated.table(running, carbon, data, options.series, say)
    return missed


if __name__ == "__main__":
    sys.exit(main())
