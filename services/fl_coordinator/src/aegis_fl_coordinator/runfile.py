"""The file from which a ServerApp learns its run: written by the coordinator, read in Flower's process.

It never travels through Flower's run config, which reaches every site.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from aegis_common.errors import AegisError
from aegis_fl_coordinator.domain.errors import UnknownSchema
from aegis_fl_coordinator.domain.evaluation import Evaluation
from aegis_fl_coordinator.domain.privacy import LocalNoise, Privacy
from aegis_fl_coordinator.domain.strategies import Aggregation
from aegis_fl_coordinator.flower import SERVERAPP_DIR_VARIABLE

SCHEMA_VERSION: Final = 4
_READABLE: Final = frozenset({1, 2, 3, 4})
RUN_KEY: Final = "aegis-run"
"""Key of the run config that carries the run's id; every app declares it. It is a name, not a secret."""
TOKEN_FILE: Final = "token"  # noqa: S105  # a file name
MODEL_FILE: Final = "model.onnx"
DESCRIPTION_FILE: Final = "model.json"
ROUNDS_FILE: Final = "rounds.jsonl"
CHECKPOINTS: Final = "checkpoints"
_RUN_FILE: Final = "run.json"


@dataclass(frozen=True, slots=True)
class CoordinatorAddress:
    """Where the coordinator listens and how to be let in.

    Attributes:
        target: `host:port`.
        server_name: DNS SAN that its certificate must have.
        cert: Client certificate chain of account `fl-serverapp`, PEM file.
        key: Its key.
        bundle: CA of the coordinator.
    """

    target: str
    server_name: str
    cert: str
    key: str
    bundle: str


@dataclass(frozen=True, slots=True)
class RunFile:
    """One run, for its ServerApp.

    Attributes:
        run_id: The part after `trainingRuns/`.
        rounds: Rounds to train.
        min_nodes: Nodes that a round needs.
        traceparent: W3C trace context of the run.
        nodes: Flower's id of each node that may take part, to its resource name.
        coordinator: None for a run without a coordinator: no gate, and reports go to a file.
        aggregation: How updates become the next model.
        seed: Of what the run draws; None for a run that need not repeat.
        virtual: True when the nodes are virtual ones in processes of this machine.
        privacy: What the run may spend of its nodes' privacy.
        evaluation: Who measures the model after each round.
    """

    run_id: str
    rounds: int
    min_nodes: int
    traceparent: str
    nodes: Mapping[int, str]
    coordinator: CoordinatorAddress | None
    aggregation: Aggregation = field(default_factory=Aggregation)
    seed: int | None = None
    virtual: bool = False
    privacy: Privacy = field(default_factory=Privacy)
    evaluation: Evaluation = Evaluation.APP

    @property
    def name(self) -> str:
        return f"trainingRuns/{self.run_id}"

    def write(self, folder: Path) -> None:
        """Write the file into *folder*, in one step; the folder is made, for this user only."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = asdict(self) | {"schema_version": SCHEMA_VERSION}
        write_private(folder / _RUN_FILE, json.dumps(record, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> RunFile:
        """Read the file in *folder*.

        Raises:
            AegisError: It is broken, or of another schema version.
        """
        try:
            record: dict[str, Any] = json.loads((folder / _RUN_FILE).read_bytes())
            version = record.pop("schema_version")
            if version not in _READABLE:
                raise UnknownSchema(
                    f"{folder / _RUN_FILE} has schema version {version}; this reader knows 1 to "
                    f"{SCHEMA_VERSION}",
                    schema_version=str(version),
                )
            record["nodes"] = {int(node): str(name) for node, name in record["nodes"].items()}
            address = record["coordinator"]
            record["coordinator"] = CoordinatorAddress(**address) if address else None
            record["aggregation"] = Aggregation(**record.get("aggregation", {}))
            privacy = record.get("privacy", {})
            if privacy.get("local"):
                privacy["local"] = LocalNoise(**privacy["local"])
            record["privacy"] = Privacy(**privacy)
            record["evaluation"] = Evaluation(record.get("evaluation", Evaluation.APP))
            return cls(**record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenRunFile(f"{folder / _RUN_FILE} cannot be read: {error!r}") from error


class BrokenRunFile(AegisError):
    kind = UnknownSchema.kind
    reason = "BROKEN_RUN_FILE"


def run_folder(run_id: str) -> Path:
    """Return the folder of a run, for code inside Flower's ServerApp process.

    Raises:
        BrokenRunFile: The process was not started for a coordinator, or the run has no folder.
    """
    base = os.environ.get(SERVERAPP_DIR_VARIABLE, "")  # noqa: TID251  # Flower's process has no Settings
    folder = Path(base) / run_id
    if not base or not run_id or not folder.is_dir():
        raise BrokenRunFile(
            f"there is no folder for run {run_id!r} under {SERVERAPP_DIR_VARIABLE}={base!r}", run=run_id
        )
    return folder


def parameters_file(folder: Path, number: int) -> Path:
    """Return where the parameters after round *number* lie in a folder of checkpoints."""
    return folder / f"round-{number:05d}.npz"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only this user can read, in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
