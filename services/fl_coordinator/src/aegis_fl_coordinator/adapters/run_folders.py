"""The folder of each run on the volume: written for the ServerApp, read back when it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from aegis_fl_coordinator.domain.errors import ModelNotKept, RunFailed
from aegis_fl_coordinator.domain.ports import ExportedModel
from aegis_fl_coordinator.domain.run import EngineKind, TrainingRun
from aegis_fl_coordinator.runfile import (
    CHECKPOINTS,
    DESCRIPTION_FILE,
    MODEL_FILE,
    TOKEN_FILE,
    CoordinatorAddress,
    RunFile,
    parameters_file,
    write_private,
)

_DISCARDED: Final = ".discarded-"


class VolumeFolders:
    """Run folders under one base.

    Args:
        base: The ServerApps' folder on the volume; made if absent, for this user only.
        coordinator: Returns where the coordinator listens now.
    """

    def __init__(self, base: Path, *, coordinator: Callable[[], CoordinatorAddress]) -> None:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._base = base
        self._coordinator = coordinator
        self._written: dict[str, RunFile] = {}

    def prepare(self, run: TrainingRun, *, token: str | None, nodes: Mapping[int, str]) -> None:
        file = RunFile(
            run.run_id,
            run.spec.rounds,
            run.spec.min_nodes,
            run.traceparent,
            dict(nodes),
            self._coordinator(),
            run.spec.aggregation,
            run.spec.seed,
            virtual=run.spec.engine is EngineKind.IN_PROCESS,
            privacy=run.spec.privacy,
            evaluation=run.spec.evaluation,
        )
        if token is None and self._written.get(run.run_id) == file:
            return
        folder = self._base / run.run_id
        folder.mkdir(exist_ok=True, mode=0o700)
        if token is not None:
            write_private(folder / TOKEN_FILE, token.encode("ascii"))
        file.write(folder)
        self._written[run.run_id] = file

    def export(self, run: TrainingRun) -> ExportedModel | None:
        folder = self._base / run.run_id
        try:
            onnx = (folder / MODEL_FILE).read_bytes()
            description: dict[str, Any] = json.loads((folder / DESCRIPTION_FILE).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFailed(f"the exported model of {run.name} cannot be read: {error}") from error
        return ExportedModel(onnx, description)

    def open_parameters(self, run: TrainingRun, number: int) -> BinaryIO:
        """Open the parameters after a round.

        Raises:
            ModelNotKept: They are not kept, any more or yet.
        """
        folder = self._base / run.run_id / CHECKPOINTS
        try:
            return parameters_file(folder, number).open("rb")
        except FileNotFoundError as error:
            numbers = [one.number for one in run.rounds]
            kept = [str(one) for one in numbers if parameters_file(folder, one).exists()]
            raise ModelNotKept(
                f"the parameters after round {number} of {run.name} are not kept; "
                f"there are those after {', '.join(kept) or 'none'}",
                name=run.name,
                kept=",".join(kept),
            ) from error

    def open_exported(self, run: TrainingRun) -> BinaryIO:
        """Open the model that the app exported.

        Raises:
            ModelNotKept: There is none.
        """
        try:
            return (self._base / run.run_id / MODEL_FILE).open("rb")
        except FileNotFoundError as error:
            raise ModelNotKept(
                f"{run.name} has exported no model: its app exports none, or not all rounds are done",
                name=run.name,
            ) from error

    def close(self, run: TrainingRun) -> None:
        (self._base / run.run_id / TOKEN_FILE).unlink(missing_ok=True)
        self._written.pop(run.run_id, None)

    def discard(self, run: TrainingRun) -> None:
        folder = self._base / run.run_id
        if folder.exists():
            folder.rename(self._base / f"{_DISCARDED}{run.run_id}")
        self._written.pop(run.run_id, None)

    def purge(self) -> None:
        for folder in self._base.glob(f"{_DISCARDED}*"):
            shutil.rmtree(folder)
