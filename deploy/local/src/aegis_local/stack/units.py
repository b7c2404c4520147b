"""All units of a stack."""

from __future__ import annotations

from dataclasses import replace

from aegis_local.stack.flower import edge_unit, site_units, superlink_unit
from aegis_local.stack.gateway import gateway_units
from aegis_local.stack.layout import Layout
from aegis_local.stack.redis import redis_units
from aegis_local.stack.services import agent_units, carbon_unit, coordinator_unit
from aegis_local.supervisor.spec import ProcessSpec, Unit


def stack_units(layout: Layout) -> list[Unit]:
    """Return everything that runs, with its order; renders the configuration files of the Envoys."""
    units: list[Unit] = [
        *redis_units(layout),
        carbon_unit(layout),
        *agent_units(layout),
        superlink_unit(layout),
        coordinator_unit(layout),
        edge_unit(layout),
        *gateway_units(layout),
        *site_units(layout),
    ]
    return [_with_temporary_folder(unit, layout) if isinstance(unit, ProcessSpec) else unit for unit in units]


def _with_temporary_folder(spec: ProcessSpec, layout: Layout) -> ProcessSpec:
    """Return the process with a folder for temporary files that goes when the stack does."""
    return replace(spec, env={**spec.env, "TMPDIR": str(layout.state.temporary)})
