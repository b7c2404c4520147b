"""`aegis tools scaffold`: a package with one tool, its entry point, and a test that passes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from aegis_common.new_package import module_of, write_package

_PYPROJECT: Final = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{dist}"
version = "0.1.0"
description = "A tool for AEGIS."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["aegis-agent"]

[project.optional-dependencies]
test = ["pytest>=8"]

# The agent finds the tool by this; the name on the left is the name of the tool.
[project.entry-points."aegis.tools"]
{module} = "{module}:{module}"

[tool.hatch.build.targets.wheel]
packages = ["src/{module}"]

[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

_MODULE: Final = '''\
"""The tool `{module}`."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from aegis_agent import tool
from pydantic import BaseModel, Field


class Words(BaseModel):
    """What is found in a text."""

    count: int = Field(ge=0, description="Words in the text.")
    most_common: list[str] = Field(description="The words that come most often, the first one first.")


@tool(version="0.1.0", idempotent=True, cacheable=True, concurrency=2)
def {module}(
    text: Annotated[str, Field(description="Any text.", max_length=100_000)],
    top: Annotated[int, Field(ge=1, le=100, description="How many words to name.")] = 3,
) -> Words:
    """Counts the words of a text and names those that come most often."""
    words = text.lower().split()
    return Words(count=len(words), most_common=[word for word, _ in Counter(words).most_common(top)])
'''

_TEST: Final = '''\
"""The tool as the agent runs it: in a child process, its input and output checked."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import pytest
from aegis_agent import AgentManager
from aegis_common.errors import AegisError

import {module}


def dispatch(payload: dict[str, Any]) -> Any:
    async def call() -> Any:
        async with AgentManager() as manager:
            manager.register_tool("{module}", {module}.{module})
            return await manager.dispatch("{module}", payload, timeout=60)

    return asyncio.run(call())


def test_words_are_counted() -> None:
    found = dispatch({{"text": "to be or not to be", "top": 2}})

    assert found == {{"count": 6, "most_common": ["to", "be"]}}


def test_input_out_of_range_is_refused() -> None:
    with pytest.raises(AegisError) as caught:
        dispatch({{"text": "to be", "top": 0}})

    assert (caught.value.reason, caught.value.metadata["path"]) == ("INVALID_TOOL_INPUT", "top")


def test_the_agent_finds_the_tool_by_its_entry_point() -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    entries = settings["project"]["entry-points"]["aegis.tools"]

    assert entries == {{"{module}": "{module}:{module}"}}
'''

_README: Final = """\
# {dist}

A tool for AEGIS. Its code is in `src/{module}/__init__.py`: type hints make the schemas, the docstring is the
description.

```sh
pip install -e '.[test]'    # where aegis-agent is installed
pytest
aegis tools run {module} --arg text='to be or not to be'    # after a restart of the agent
```

For work on a running agent, copy the module into the agent's `AEGIS_AGENT_TOOLS_DIR`: it is taken over within
seconds, each time that it changes.
"""

_FILES: Final = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "src/{module}/__init__.py": _MODULE,
    "src/{module}/py.typed": "",
    "tests/test_{module}.py": _TEST,
}


def scaffold(
    name: Annotated[str, typer.Argument(help="Name of the package and the tool, for example word_count.")],
    folder: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where to write it. Default: ./NAME.")
    ] = None,
) -> None:
    """Write a package with one tool, its entry point and a test that passes as it stands."""
    place = folder or Path(name)
    for path in write(name, place):
        typer.echo(path)
    typer.echo(f"next: cd {place} && pip install -e '.[test]' && pytest", err=True)


def write(name: str, place: Path) -> list[Path]:
    """Write the package into the folder *place* and return its files.

    Raises:
        ConfigurationError: The name cannot be one, the folder is not empty, or it cannot be written.
    """
    module = module_of(name)
    names = {"module": module, "dist": module.replace("_", "-")}
    return write_package(place, {path.format(**names): text.format(**names) for path, text in _FILES.items()})
