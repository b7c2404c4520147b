"""What the coordinator needs from outside: the engine, the store, the apps, the model's way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from aegis_fl_coordinator.domain.nodes import EngineNode, Node
from aegis_fl_coordinator.domain.rounds import Energy, RoundReport
from aegis_fl_coordinator.domain.run import ConfigValue, TrainingRun
from aegis_fl_coordinator.domain.usage import RoundUsage


class EngineState(Enum):
    """Where a run of the engine stands."""

    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"
    """Nobody runs it any more, through no fault of the app: it may be submitted again."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """State of an engine run and, for a failed one, the engine's own words."""

    state: EngineState
    details: str = ""


class RunEngine(Protocol):
    """Runs apps. Every method may raise `EngineUnavailable`."""

    def close(self) -> None: ...
    async def start_run(self, bundle: bytes, config: Mapping[str, ConfigValue]) -> int: ...
    async def find_run(self, key: str, value: str) -> int | None:
        """Return the newest engine run whose overridden config has *value* under *key*."""
        ...

    async def status(self, engine_run: int) -> EngineStatus: ...
    async def stop_run(self, engine_run: int) -> None: ...


class Engine(RunEngine, Protocol):
    """Flower at the sites: it also knows nodes."""

    async def healthy(self) -> bool: ...
    async def nodes(self) -> Sequence[EngineNode]: ...
    async def register_node(self, public_key_pem: str) -> int:
        """Register a key, or find it registered, and return the engine's id of the node."""
        ...

    async def unregister_node(self, engine_node: int) -> None:
        """Remove a node; one that is unknown is as good as removed."""
        ...


@dataclass(frozen=True, slots=True)
class AppBundle:
    """An installed app, built.

    Attributes:
        bundle: The bytes that Flower gets.
        sha256: Their digest.
        config: What the app declares, with its default values.
    """

    name: str
    bundle: bytes
    sha256: str
    config: Mapping[str, ConfigValue]


class AppCatalogue(Protocol):
    """The installed apps, whether they may run or not. Thread-safe."""

    def names(self) -> Sequence[str]:
        """Return the names, in order."""
        ...

    def get(self, name: str) -> AppBundle:
        """Return an app; built when it is first asked for, and the same from then on.

        Raises:
            UnknownApp: No app of that name is installed.
            BrokenApp: It cannot run under a coordinator.
        """
        ...

    def vetted(self, app: AppBundle) -> bool:
        """Return whether it ships with the coordinator, or its operator approved it for all tenants."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's history: the run (without its rounds) after a change, or a finished round."""

    seq: int
    time: datetime
    run: TrainingRun | None = None
    report: RoundReport | None = None


class RunStore(Protocol):
    """Runs, their history, and nodes. Every method is one transaction."""

    def create_run(self, run: TrainingRun, *, request_id: str, asked: str) -> TrainingRun:
        """Store a new run and return it, or the run that came with *request_id* before.

        Raises:
            RequestIdReused: The id came with something else than *asked*.
        """
        ...

    def get_run(self, tenant: str, run_id: str) -> TrainingRun: ...
    def find_run(self, run_id: str) -> TrainingRun:
        """Return a run of whichever tenant; for the run's own app, which proves itself by token."""
        ...

    def list_runs(self, tenant: str) -> list[TrainingRun]: ...
    def active_runs(self) -> list[TrainingRun]: ...
    def update_run(
        self,
        run_id: str,
        change: Callable[[TrainingRun], TrainingRun],
        *,
        usages: Callable[[TrainingRun, RoundReport], Sequence[RoundUsage]] | None = None,
    ) -> TrainingRun:
        """Store what *change* makes of the run, and with each new round what *usages* says that it used."""
        ...

    def expired_runs(self, now: datetime) -> list[TrainingRun]:
        """Return the ended runs of all tenants, without their rounds, that are kept no longer."""
        ...

    def remove_run(self, run_id: str, *, now: datetime, also: Callable[[], None]) -> bool:
        """Remove all of a run and return True, unless it goes on again or has usage that is unsent.

        Args:
            run_id: The part after `trainingRuns/`.
            now: The time that it has to be expired at.
            also: Done in the same transaction; if it raises, the run stays.
        """
        ...

    def events(self, run_id: str, *, after: int) -> list[Event]: ...
    def last_event(self, run_id: str) -> Event: ...
    def unsent_usages(self, most: int) -> list[RoundUsage]:
        """Return what the ledger has not heard of, oldest first."""
        ...

    def settle_usage(self, usage: RoundUsage, energy: Energy | None) -> None:
        """Forget a usage that the ledger has recorded, or will never take, and note its energy."""
        ...

    def rounds(self, run_id: str, *, after: int, most: int) -> list[RoundReport]:
        """Return up to *most* rounds with higher numbers than *after*, whole, in order."""
        ...

    def same_node(self, tenant: str, node_id: str, public_key_pem: str) -> Node | None:
        """Return the node that has this name and this key, or None when both are free.

        Raises:
            NodeExists: The name or the key belongs to another node.
        """
        ...

    def add_node(self, node: Node) -> Node:
        """Store a node, or return the same one stored before.

        Raises:
            NodeExists: The name or the key belongs to another node.
        """
        ...

    def get_node(self, tenant: str, node_id: str) -> Node: ...
    def list_nodes(self, tenant: str) -> list[Node]: ...
    def remove_node(self, tenant: str, node_id: str) -> None: ...


class RunFolders(Protocol):
    """The private folder of each run on the volume, which its ServerApp reads and writes."""

    def prepare(self, run: TrainingRun, *, token: str | None, nodes: Mapping[int, str]) -> None:
        """Write the file from which the ServerApp learns its run; without a token, keep the one there."""
        ...

    def export(self, run: TrainingRun) -> ExportedModel | None:
        """Return the exported model, or None when the app wrote none."""
        ...

    def close(self, run: TrainingRun) -> None:
        """Take the token away from a run that has ended; checkpoints stay."""
        ...

    def discard(self, run: TrainingRun) -> None:
        """Put a run's folder aside, in one step, for `purge`; one that is gone is as good as that."""
        ...

    def purge(self) -> None:
        """Remove the folders that were put aside."""
        ...


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """The final model as the app exported it, and what the app says of it."""

    onnx: bytes
    description: Mapping[str, object]


class ModelPublisher(Protocol):
    async def publish(self, run: TrainingRun, model: ExportedModel) -> str:
        """Sign, store and announce the model; return `models/{model}/versions/{version}`. Safe to repeat."""
        ...
