"""The accountant of a run: what noise needs of a round, and what the run has spent."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from aegis_fl_coordinator.clientapp.local_noise import CLIPPING_NORM, NOISE_MULTIPLIER, RECORD, WEIGHT_KEY
from aegis_fl_coordinator.domain.privacy import Privacy, gaussian_epsilon
from aegis_fl_coordinator.serverapp.releases import Releases
from aegis_fl_coordinator.serverapp.strategies import UnusableStrategy

_CLIENT_SIDE = (DifferentialPrivacyClientSideAdaptiveClipping, DifferentialPrivacyClientSideFixedClipping)
_CENTRAL = (
    *_CLIENT_SIDE,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)


class Accountant:
    """The privacy of one run; without noise it does nothing.

    Args:
        strategy: The run's strategy.
        asked: What the run may spend, and the noise of its nodes.
        folder: Of the run.
    """

    def __init__(self, strategy: Strategy, asked: Privacy, folder: Path) -> None:
        self._strategy: Any = strategy
        self._asked = asked
        self._sent = Releases(folder) if asked.local else None
        self.central = isinstance(strategy, _CENTRAL)
        self.releases = 0
        """Models with noise of the server that this run has given out."""

    @property
    def local(self) -> bool:
        """True when the nodes add noise."""
        return self._sent is not None

    @property
    def clipped_to(self) -> float | None:
        """L2 norm that sites have to clip their updates to; None when the server clips, or nobody."""
        return float(self._strategy.clipping_norm) if isinstance(self._strategy, _CLIENT_SIDE) else None

    @property
    def confirmation(self) -> dict[str, float] | None:
        """What a node confirms that it added noise; None when it adds none."""
        local = self._asked.local
        if local is None:
            return None
        return {CLIPPING_NORM: local.clipping_norm, NOISE_MULTIPLIER: local.noise_multiplier}

    def check(self, arrays: ArrayRecord) -> None:
        """Return when noise can be added to each of the model's arrays.

        Raises:
            UnusableStrategy: One of them holds integers, which would be given out as they are.
        """
        for name, array in arrays.items() if self.central else ():
            dtype = array.numpy().dtype
            if not np.issubdtype(dtype, np.floating):
                raise UnusableStrategy(
                    f"array {name!r} of the model is {dtype}: noise on it would be rounded away; leave it "
                    "out of what is trained together"
                )

    def ask(self, messages: Sequence[Message], name: Callable[[int], str], weight_key: str) -> None:
        """Have the nodes add noise, and count what they will send."""
        if self._sent is None:
            return
        for message in messages:
            record = ConfigRecord({WEIGHT_KEY: weight_key})
            for key, value in (self.confirmation or {}).items():
                record[key] = value
            message.content[RECORD] = record
        nodes = [message.metadata.dst_node_id for message in messages]
        self._sent.count(name(node) or str(node) for node in nodes)

    def before(self, results: int, *, seeded: bool) -> None:
        """Tell the strategy how many results it gets: Flower scales the noise to those it asked for.

        Args:
            results: How many.
            seeded: True in a run of virtual nodes that is to repeat.
        """
        if not self.central:
            return
        self._strategy.num_sampled_clients = results
        if not seeded:
            # Flower draws noise from the global generator, which an app may have seeded.
            np.random.seed(list(os.urandom(64)))

    def after(self) -> None:
        """Count a release of the server."""
        self.releases += self.central

    def spent(self) -> tuple[float, int] | None:
        """Return epsilon and the number of releases that it is the price of; None when no bound is known.

        One is known where the noise of the server lies on a plain mean: on a median, or on momentum of
        earlier rounds, one update's influence is not what the noise was made for. With noise of the nodes
        one is known whatever is done with their updates.
        """
        local = self._asked.local
        if self._sent is not None and local is not None:
            noise, releases = local.noise_multiplier, self._sent.most
        elif self.central and type(self._strategy.strategy).aggregate_train is FedAvg.aggregate_train:
            noise, releases = self._noise_multiplier(), self.releases
        else:
            return None
        epsilon = gaussian_epsilon(noise, releases, delta=self._asked.delta)
        return None if epsilon is None else (epsilon, releases)

    def _noise_multiplier(self) -> float:
        """Return the noise of a whole release: adaptive clipping also gives out a noisy count.

        (Andrew et al.: Differentially Private Learning with Adaptive Clipping, 2021, theorem 1.)
        """
        noise = float(self._strategy.noise_multiplier)
        count = getattr(self._strategy, "clipped_count_stddev", None)
        if count is None or not noise:
            return noise
        return 1 / math.sqrt(noise**-2 + (2 * count) ** -2) if count else 0.0
