"""How AgentManager behaves in scripts and interpreters, where `__main__` is what is being run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARDED = """
import asyncio
from aegis_agent import AgentManager

def triple(value: int) -> int:
    return value * 3

async def main():
    async with AgentManager() as manager:
        manager.register_tool("triple", triple)
        print(await manager.dispatch("triple", {"value": 7}))

"""


def _run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_function_of_a_script_runs_in_a_child(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED + 'if __name__ == "__main__":\n    asyncio.run(main())\n')

    assert _run(str(script)).stdout == "21\n"


def test_a_manager_that_is_never_closed_ends_with_its_loop_in_silence() -> None:
    code = """
import asyncio
from aegis_agent import AgentManager
from aegis_agent.testing.tools import double

async def main():
    manager = AgentManager()
    manager.register_tool("double", double)
    print(await manager.dispatch("double", {"value": 7}, timeout=30))

asyncio.run(main())
"""

    done = _run("-c", code)

    assert (done.stdout, done.stderr) == ("14\n", "")


def test_a_script_without_a_guard_is_told_to_have_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(GUARDED + "asyncio.run(main())\n")

    done = _run(str(script))

    assert done.returncode == 1
    assert 'below `if __name__ == "__main__":`' in done.stderr


@pytest.mark.parametrize("how", ["-c", "stdin"])
def test_a_function_typed_into_an_interpreter_is_refused(how: str) -> None:
    code = GUARDED + "asyncio.run(main())\n"

    done = _run("-c", code) if how == "-c" else _run("-", stdin=code)

    assert "it was typed into an interpreter" in done.stderr


def test_an_imported_function_works_from_an_interpreter() -> None:
    code = "from aegis_agent.testing.tools import double\n"
    code += GUARDED.replace('"triple", triple', '"triple", double') + "asyncio.run(main())\n"

    assert _run("-c", code).stdout == "14\n"


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, aegis_agent\n"
        "heavy = {'pydantic', 'grpc', 'numpy', 'onnxruntime', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    assert _run("-c", code).stdout == "[]\n"
