"""A training app over virtual nodes on this machine, without any service: what `aegis fl simulate` does."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.adapters.flower_control import app_config, build_bundle
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import RunFailed
from aegis_fl_coordinator.domain.evaluation import Evaluation, check_evaluation
from aegis_fl_coordinator.domain.nodes import virtual_nodes
from aegis_fl_coordinator.domain.ports import AppBundle
from aegis_fl_coordinator.domain.privacy import Privacy, check_privacy
from aegis_fl_coordinator.domain.run import ConfigValue
from aegis_fl_coordinator.domain.strategies import Aggregation, checked
from aegis_fl_coordinator.domain.training import checked_config
from aegis_fl_coordinator.inprocess.launch import failure, launch, stop, worker_count
from aegis_fl_coordinator.runfile import MODEL_FILE, ROUNDS_FILE, RUN_KEY, RunFile

_LOOK_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Simulation:
    """What to simulate.

    Attributes:
        app: Folder of a Flower app, or the name of a bundled one.
        nodes: Virtual nodes. Range: 1 and up.
        rounds: Range: 1 and up.
        aggregation: How updates become the next model.
        config: Values for the app's own configuration.
        seed: The same one gives the same model.
        workers: Client processes; 0 for one for each core.
        privacy: What the run may spend of its nodes' privacy.
        evaluation: Who measures the model after each round.
    """

    app: str
    nodes: int = 3
    rounds: int = 3
    aggregation: Aggregation = field(default_factory=Aggregation)
    config: Mapping[str, ConfigValue] = field(default_factory=dict)
    seed: int = 0
    workers: int = 0
    privacy: Privacy = field(default_factory=Privacy)
    evaluation: Evaluation = Evaluation.APP


class Running:
    """A simulation that was started."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._process = process

    @property
    def model(self) -> Path | None:
        """The exported model, once all rounds are done; None when the app exports none."""
        path = self._folder / MODEL_FILE
        return path if path.exists() else None

    def rounds(self) -> Iterator[dict[str, Any]]:
        """Yield the report of each round as it comes (`aegis.fl.v1.Round` in JSON).

        Raises:
            RunFailed: The app failed; the message is its own.
        """
        file, seen = self._folder / ROUNDS_FILE, set[int]()
        ended = False
        while not ended:
            # Looked at before the reports: what comes between the two is read all the same.
            ended = self._process.poll() is not None
            lines = file.read_text("utf-8").splitlines() if file.exists() else []
            for line in lines[len(seen) :]:
                report = json.loads(line)
                if report["number"] not in seen:
                    yield report
                seen.add(report["number"])
            if not ended:
                time.sleep(_LOOK_S)
        if self._process.returncode:
            raise RunFailed(failure(self._folder))


@contextmanager
def simulated(wanted: Simulation, folder: Path | None = None) -> Iterator[Running]:
    """Start a simulation; it ends with the block.

    Args:
        wanted: What to simulate.
        folder: Keeps checkpoints, logs and the model; None for a temporary one.

    Raises:
        ConfigurationError: There is no such app.
        InvalidRunConfig: A value does not fit the app or the strategy.
    """
    source = _source(wanted.app)
    declared = app_config(source)
    config = checked_config(wanted.config, AppBundle(source.name, b"", "", declared))
    aggregation = checked(wanted.aggregation, nodes=wanted.nodes)
    check_privacy(aggregation, wanted.privacy, rounds=wanted.rounds)
    check_evaluation(wanted.evaluation, aggregation, wanted.privacy)
    bundle = build_bundle(source)
    with tempfile.TemporaryDirectory(prefix="aegis-fl-") as temporary:
        place = Path(temporary, "run") if folder is None else folder.resolve()
        (place / ROUNDS_FILE).unlink(missing_ok=True)
        traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        nodes = virtual_nodes(wanted.nodes)
        RunFile(
            place.name,
            wanted.rounds,
            wanted.nodes,
            traceparent,
            nodes,
            None,
            aggregation,
            wanted.seed,
            virtual=True,
            privacy=wanted.privacy,
            evaluation=wanted.evaluation,
        ).write(place)
        # An app of Flower's own making does not declare the key, and does not miss it.
        own = {RUN_KEY: place.name} if RUN_KEY in declared else {}
        process = launch(
            place, bundle, {**config, **own}, workers=wanted.workers or worker_count(wanted.nodes)
        )
        try:
            yield Running(place, process)
        finally:
            stop(process)


def _source(app: str) -> Path:
    folder = Path(app)
    if (folder / "pyproject.toml").is_file():
        return folder.resolve()
    if (BUNDLED / app / "pyproject.toml").is_file():
        return BUNDLED / app
    names = ", ".join(sorted(path.parent.name for path in BUNDLED.glob("*/pyproject.toml")))
    raise ConfigurationError(f"{app!r} is neither the folder of a Flower app nor a bundled one ({names})")
