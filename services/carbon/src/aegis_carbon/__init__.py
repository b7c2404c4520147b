"""The AEGIS carbon service, and `CarbonScheduler` for use without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_carbon.domain.schedule import Decision as Decision
    from aegis_carbon.domain.schedule import OnMissing as OnMissing
    from aegis_carbon.scheduler import CarbonScheduler as CarbonScheduler

__all__ = ["CarbonScheduler", "Decision", "OnMissing"]


def __getattr__(name: str) -> object:
    # Late, so that `import aegis_carbon` loads neither the HTTP client nor Redis.
    if name == "CarbonScheduler":
        from aegis_carbon.scheduler import CarbonScheduler  # noqa: PLC0415

        return CarbonScheduler
    if name in ("Decision", "OnMissing"):
        from aegis_carbon.domain import schedule  # noqa: PLC0415

        return getattr(schedule, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
