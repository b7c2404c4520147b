"""What a stack's processes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_local.credentials import Credentials
from aegis_local.issuer import DevIssuer
from aegis_local.ports import allot
from aegis_local.stack.layout import Layout
from aegis_local.stack.services import agent_units, coordinator_unit
from aegis_local.state import StateDir

_APART = ("LISTEN", "OPS_LISTEN", "HTTP_LISTEN", "ADVERTISE", "INSTANCE", "AUDIT_DIR")


def layout(folder: Path, agents: int) -> Layout:
    state = StateDir.at(folder)
    state.prepare()
    credentials = Credentials(state, nodes=0)
    credentials.create()
    DevIssuer.create(state.issuer)
    return Layout(state, credentials, allot(0, 0, agents), 0, Path("/bin/true"), agents)


def test_agents_share_everything_but_addresses_name_and_audit_log(tmp_path: Path) -> None:
    units = agent_units(layout(tmp_path, 3))

    assert ["agent", "agent-2", "agent-3"] == [unit.name for unit in units]
    first, *others = (unit.env for unit in units)
    for other in others:
        differ = {name for name, value in other.items() if first[name] != value}
        assert {f"AEGIS_AGENT_{name}" for name in _APART} == differ


def test_what_tells_agents_apart_is_no_variables_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEGIS_AGENT_INSTANCE", "mine")
    monkeypatch.setenv("AEGIS_AGENT_JOB_SLOTS", "7")

    units = agent_units(layout(tmp_path, 2))

    assert ["mine", "agent-2"] == [unit.env["AEGIS_AGENT_INSTANCE"] for unit in units]
    assert ["7", "7"] == [unit.env["AEGIS_AGENT_JOB_SLOTS"] for unit in units]


def test_the_coordinator_knows_every_agent(tmp_path: Path) -> None:
    made = layout(tmp_path, 2)

    target = coordinator_unit(made).env["AEGIS_FL_COORDINATOR_AGENT"]

    assert f"ipv4:{made.address('agent')},{made.address('agent_2')}" == target
