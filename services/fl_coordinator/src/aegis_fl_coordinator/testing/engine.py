"""An engine without Flower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aegis_fl_coordinator.domain.nodes import EngineNode, NodeState
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.domain.run import ConfigValue


@dataclass
class ScriptedEngine:
    """An engine in memory: the test says which nodes are online and when a run ends."""

    online: set[int] = field(default_factory=set)
    keys: dict[str, int] = field(default_factory=dict)
    runs: dict[int, dict[str, ConfigValue]] = field(default_factory=dict)
    states: dict[int, EngineStatus] = field(default_factory=dict)
    bundles: list[bytes] = field(default_factory=list)
    failure: Exception | None = None

    def close(self) -> None:
        pass

    async def healthy(self) -> bool:
        return self.failure is None

    async def start_run(self, bundle: bytes, config: Mapping[str, ConfigValue]) -> int:
        self._check()
        self.bundles.append(bundle)
        number = len(self.runs) + 1
        self.runs[number] = dict(config)
        self.states[number] = EngineStatus(EngineState.ACTIVE)
        return number

    async def find_run(self, key: str, value: str) -> int | None:
        self._check()
        found = [number for number, config in self.runs.items() if config.get(key) == value]
        return max(found, default=None)

    async def status(self, engine_run: int) -> EngineStatus:
        self._check()
        return self.states[engine_run]

    async def stop_run(self, engine_run: int) -> None:
        self._check()
        self.states[engine_run] = EngineStatus(EngineState.STOPPED)

    async def nodes(self) -> list[EngineNode]:
        self._check()
        return [
            EngineNode(number, key, NodeState.ONLINE if number in self.online else NodeState.REGISTERED, None)
            for key, number in self.keys.items()
        ]

    async def register_node(self, public_key_pem: str) -> int:
        self._check()
        return self.keys.setdefault(public_key_pem, len(self.keys) + 101)

    async def unregister_node(self, engine_node: int) -> None:
        self._check()
        self.keys = {key: number for key, number in self.keys.items() if number != engine_node}

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure
