"""`make bench`: runs the benches and prints their tables."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
from pathlib import Path

from load.harness import Bench, Report, run, tables


def found() -> dict[str, Bench]:
    """Return the benches of this folder, by name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    benches = [importlib.import_module(f"load.{name}").BENCH for name in names]
    return {bench.name: bench for bench in benches}


def main() -> int:
    benches = found()
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", choices=[*benches, []], help="benches to run; all if none is named"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each bench; its own number if omitted")
    parser.add_argument("--json", type=Path, help="file to write every sample to")
    parser.add_argument("--check", action="store_true", help="fail when an aim is missed")
    options = parser.parse_args()
    reports: list[Report] = []
    for name in options.names or benches:
        bench = benches[name]
        report = asyncio.run(run(bench, rounds=options.rounds or bench.rounds))
        reports.append(report)
        print("\n".join(tables(report)), flush=True)
    if options.json:
        options.json.write_text(json.dumps({item.bench.name: item.samples for item in reports}))
    missed = [line for item in reports for line in item.missed]
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
