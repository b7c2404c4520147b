"""What a strategy of central differential privacy needs of a round, and what the run has spent."""

from __future__ import annotations

import math
from typing import Any

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Strategy,
)

from aegis_fl_coordinator.domain.privacy import DELTA, gaussian_epsilon

_CLIENT_SIDE = (DifferentialPrivacyClientSideAdaptiveClipping, DifferentialPrivacyClientSideFixedClipping)
_CENTRAL = (
    *_CLIENT_SIDE,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)


class Privacy:
    """The accountant of one run; for a strategy without noise it does nothing.

    Args:
        strategy: The run's strategy.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy: Any = strategy
        self.central = isinstance(strategy, _CENTRAL)
        self.releases = 0
        """Models with noise that this run has given out."""

    @property
    def clipped_to(self) -> float | None:
        """L2 norm that sites have to clip their updates to; None when the server clips, or nobody."""
        return float(self._strategy.clipping_norm) if isinstance(self._strategy, _CLIENT_SIDE) else None

    def before(self, results: int) -> None:
        """Tell the strategy how many results it gets: Flower scales the noise to those it asked for."""
        if self.central:
            self._strategy.num_sampled_clients = results

    def after(self) -> None:
        """Count a release."""
        self.releases += self.central

    def spent(self) -> tuple[float, float] | None:
        """Return (epsilon, delta), or None when no bound is known.

        One is known where the noise lies on a plain mean: on a median, or on momentum of earlier rounds, one
        update's influence is not what the noise was made for.
        """
        if not self.central or self._inner_aggregation() is not FedAvg.aggregate_train:
            return None
        epsilon = gaussian_epsilon(self._noise_multiplier(), self.releases)
        return None if epsilon is None else (epsilon, DELTA)

    def _inner_aggregation(self) -> object:
        return type(self._strategy.strategy).aggregate_train

    def _noise_multiplier(self) -> float:
        """Return the noise of a whole release: adaptive clipping also gives out a noisy count.

        (Andrew et al.: Differentially Private Learning with Adaptive Clipping, 2021, theorem 1.)
        """
        noise = float(self._strategy.noise_multiplier)
        count = getattr(self._strategy, "clipped_count_stddev", None)
        if count is None or not noise:
            return noise
        return 1 / math.sqrt(noise**-2 + (2 * count) ** -2) if count else 0.0
