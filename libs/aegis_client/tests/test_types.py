"""Code whose type errors are the test: the descriptors of the surface keep parameters and results typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

PROGRAM = """
from aegis_client import AsyncClient, Client, ToolResult

def wait(client: Client) -> None:
    good: ToolResult = client.tools.run("echo", {"a": 1}, timeout=5)
    for event in client.training.watch("r1"):
        kind: str = event.kind
    client.tools.run(3)
    client.carbon.check(zon="GB")
    bad: str = client.carbon.check("GB")

async def awaited(client: AsyncClient) -> None:
    good: ToolResult = await client.tools.run("echo")
    async for zone in client.carbon.zones():
        name: str = zone.name
    bad: ToolResult = client.tools.run("echo")
"""
WRONG = (
    'line 8: Argument 1 has incompatible type "int"; expected "str"',
    'line 9: Unexpected keyword argument "zon"; did you mean "zone"?',
    'line 10: Incompatible types in assignment (expression has type "ScheduleDecision"',
    "line 16: Incompatible types in assignment",
)


@pytest.mark.long
def test_wrong_calls_are_type_errors(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "pyproject.toml",
        "--no-error-summary",
        str(program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT, check=False)

    found = [
        f"line {line.split(':')[1]}:{line.partition('error:')[2]}"
        for line in done.stdout.splitlines()
        if "error:" in line
    ]
    assert len(found) == len(WRONG)
    for line, expected in zip(found, WRONG, strict=True):
        assert line.startswith(expected)
