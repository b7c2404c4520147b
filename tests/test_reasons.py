"""Every reason that a service gives for an error is documented: with its rpc, or in a table of the docs."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aegis_common.errors import AegisError, Scope

ROOT = Path(__file__).parents[1]
SERVICES = ("aegis_common", "aegis_agent", "aegis_carbon", "aegis_fl_coordinator", "aegis_gateway")
# The controller answers no calls: its errors stay in its own process.
INSIDE = ("aegis_carbon.controller.",)
PLACES = ("protos/aegis/**/*.proto", "protos/inference/*.proto", "docs/*.md", "services/*/README.md")
ROW = re.compile(r"^\| (`[A-Z0-9_`, ]+`) \| ([A-Z_, ]+?)(?:, HTTP \d+)? \|", re.MULTILINE)
LIMITS = "### Where limits count"


def _below(error: type[AegisError]) -> Iterator[type[AegisError]]:
    for found in error.__subclasses__():
        yield found
        yield from _below(found)


@pytest.fixture(scope="module")
def reasons() -> dict[str, type[AegisError]]:
    """The errors of the services, by reason."""
    for name in SERVICES:
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if ".testing" not in module.name and not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    return {
        error.reason: error
        for error in _below(AegisError)
        if "reason" in error.__dict__
        and error.__module__.startswith(SERVICES)
        and not error.__module__.startswith(INSIDE)
    }


def test_every_reason_is_documented(reasons: dict[str, type[AegisError]]) -> None:
    texts = [file.read_text() for place in PLACES for file in ROOT.glob(place)]
    told = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", "".join(texts)))

    missing = {reason: error.__module__ for reason, error in reasons.items() if reason not in told}
    assert len(reasons) > 100
    assert {} == missing, "name each with its rpc in the protos, or in docs/errors.md"


def test_every_limit_of_a_replica_or_the_fleet_stands_in_the_table_of_limits(
    reasons: dict[str, type[AegisError]],
) -> None:
    table = (ROOT / "docs" / "operations.md").read_text().partition(LIMITS)[2].partition("\n## ")[0]
    limits = {reason for reason, error in reasons.items() if error.scope in (Scope.REPLICA, Scope.FLEET)}

    assert len(limits) > 10
    assert set() == {reason for reason in limits if f"`{reason}`" not in table}


def test_what_the_table_of_errors_says_is_so(reasons: dict[str, type[AegisError]]) -> None:
    known = {reason: error.kind.name for reason, error in reasons.items()}
    rows = ROW.findall((ROOT / "docs" / "errors.md").read_text())

    assert len(rows) > 20
    for names, statuses in rows:
        found = re.findall(r"[A-Z0-9_]+", names)
        of_each = statuses.split(", ") if "," in statuses else [statuses] * len(found)
        assert [known.get(name, "INTERNAL") for name in found] == of_each, names
