"""Who measures the model after each round: its nodes, the app's server part, or nobody."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.privacy import Privacy, noise_of
from aegis_fl_coordinator.domain.strategies import Aggregation

_FIELD: Final = "training_run.evaluation"
_LEAK: Final = (
    "what nodes measure leaves them without noise, and no epsilon of the run would cover it; take "
    "EVALUATION_CENTRAL or EVALUATION_NONE"
)


class Evaluation(StrEnum):
    """Who measures the model after each round."""

    APP = "app"
    """As the app has it: its server part if that can, and nodes if its own strategy asks them."""
    FEDERATED = "federated"
    CENTRAL = "central"
    NONE = "none"

    @property
    def asks_nodes(self) -> bool:
        return self in (Evaluation.APP, Evaluation.FEDERATED)

    @property
    def asks_server(self) -> bool:
        return self in (Evaluation.APP, Evaluation.CENTRAL)


def check_evaluation(evaluation: Evaluation, aggregation: Aggregation, privacy: Privacy) -> None:
    """Refuse an evaluation that would tell what the run's noise is to hide.

    Raises:
        InvalidRunConfig: Nodes are to measure, and noise of the server or of the nodes protects them.
    """
    if evaluation is Evaluation.FEDERATED and noise_of(aggregation, privacy) is not None:
        raise InvalidRunConfig(f"evaluation: {_LEAK}", violations={_FIELD: _LEAK})
