"""How AgentManager behaves in scripts and interpreters, where `__main__` is what is being run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.run import loaded, serve_tools
from aegis_agent.adapters.remote.worker import WorkerOptions
from aegis_common.errors import ConfigurationError

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


def test_a_worker_that_cannot_begin_says_why_once(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    (tmp_path / "whole.py").write_text(
        "from aegis_agent import tool\n@tool\ndef f(a: int) -> int:\n    return a\n"
    )
    dialer = Dialer(
        address="localhost:1", cert=tmp_path / "no.crt", key=tmp_path / "no.key", ca=tmp_path / "no.ca"
    )

    with pytest.raises(ConfigurationError, match=r"broken.py, line 2: ZeroDivisionError: division by zero"):
        list(loaded(str(tmp_path / "broken.py")))
    with pytest.raises(ConfigurationError, match=r"no.ca cannot be read: No such file"):
        serve_tools(str(tmp_path / "whole.py"), dialer, WorkerOptions(name="w", slots=1), tell=pytest.fail)


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
