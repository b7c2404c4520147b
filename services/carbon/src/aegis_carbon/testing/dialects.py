"""The same slots as each API writes them, for tests that hold for every provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from aegis_carbon.domain.providers import IntensityProvider
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.sources import Workshop, make_provider
from aegis_carbon.testing.clock import NOW
from aegis_carbon.testing.uk_api import Answer, Request, UkApi
from aegis_carbon.testing.uk_api import row as uk_row
from aegis_common.clock import Clock

SECRET: Final = "hush"  # noqa: S105
TOKEN: Final = "hush-token"  # noqa: S105
_POUNDS: Final = 0.45359237


@dataclass(frozen=True)
class Row:
    """A slot: its start, gCO2e/kWh or None, and whether it was measured."""

    start: datetime
    value: float | None
    measured: bool = True


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """An API, as a provider sees it.

    Attributes:
        step: Length of a slot.
        settings: What an operator sets, given the URL of the API and a file with `SECRET`.
        row: Writes a slot.
        wrap: Puts rows into the answer to a request.
    """

    step: timedelta
    settings: Callable[[str, Path], Mapping[str, Any]]
    row: Callable[[Row], Any]
    wrap: Callable[[Request, Sequence[Any]], Any]

    def provider(
        self, name: str, api: UkApi, secrets: Path, clock: Clock, *, timeout: float = 5, budget: float = 5
    ) -> IntensityProvider:
        """Make the provider *name* as the service does; times are in seconds."""
        secret = secrets / "secret"
        secret.write_text(f"{SECRET}\n", "utf-8")
        told = {"request_timeout": timeout, "provider_budget": budget, **self.settings(api.url, secret)}
        return make_provider(name, Workshop(IntensitySettings.model_validate(told), clock, AsyncExitStack()))

    def written(self, rows: Sequence[Row], request: Request) -> Any:
        """Return the answer to *request* that holds *rows*."""
        return self.wrap(request, [self.row(row) for row in rows])


def serve(api: UkApi, answer: Callable[[Request], Answer]) -> None:
    """Let *api* give *answer* to whatever is no login."""
    login = Answer({"token": TOKEN})
    api.answer = lambda request: login if request.path == "/login" else answer(request)


def _em_row(row: Row) -> Any:
    return {
        "zone": "DE",
        "carbonIntensity": row.value,
        "datetime": f"{row.start:%Y-%m-%dT%H:%M:%S}.000Z",
        "isEstimated": not row.measured,
    }


def _em_answer(request: Request, rows: Sequence[Any]) -> Any:
    question = request.path.partition("?")[0].rpartition("/")[2]
    if question == "latest":
        begun = [row for row in rows if row["datetime"] <= f"{NOW:%Y-%m-%dT%H:%M:%S}"]
        return max(begun, key=lambda row: str(row["datetime"]), default={})
    return {"data": rows} if question == "past-range" else {"zone": "DE", question: rows}


def _watttime_answer(_: Request, rows: Sequence[Any]) -> Any:
    meta = {
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "data_point_period_seconds": 300,
        "generated_at": "2026-03-04T10:10:00+00:00",
        "warnings": [],
    }
    return {"data": rows, "meta": meta}


def _watttime_row(row: Row) -> Any:
    return {
        "point_time": row.start.isoformat(),
        "value": None if row.value is None else row.value / _POUNDS,
    }


def _uk_row(row: Row) -> Any:
    return uk_row(row.start, forecast=row.value, actual=row.value if row.measured else None)


def _http_settings(url: str, secret: Path) -> Mapping[str, Any]:
    paths = {"rows": "rows", "value": "g", "start": "at", "estimated": "guess"}
    questions = {
        name: {"url": f"/{name}/{{zone}}?{{start}}/{{end}}", **paths} for name in ("current", "past", "ahead")
    }
    return {
        "api_url": url,
        "http": {"zones": {"ours": "theirs"}, "step": "PT15M", "header_file": secret, **questions},
    }


DIALECTS: Final[Mapping[str, Dialect]] = {
    "uk": Dialect(
        step=timedelta(minutes=30),
        settings=lambda url, secret: {"api_url": url, "api_key_file": secret},
        row=_uk_row,
        wrap=lambda _, rows: {"data": rows},
    ),
    "electricity_maps": Dialect(
        step=timedelta(hours=1),
        settings=lambda url, secret: {"electricity_maps": {"url": url, "key_file": secret, "zones": ["DE"]}},
        row=_em_row,
        wrap=_em_answer,
    ),
    "watttime": Dialect(
        step=timedelta(minutes=5),
        settings=lambda url, secret: {
            "watttime": {"url": url, "user_file": secret, "password_file": secret, "zones": ["CAISO_NORTH"]}
        },
        row=_watttime_row,
        wrap=_watttime_answer,
    ),
    "http": Dialect(
        step=timedelta(minutes=15),
        settings=_http_settings,
        row=lambda row: {"at": row.start.isoformat(), "g": row.value, "guess": not row.measured},
        wrap=lambda _, rows: {"rows": rows},
    ),
}
"""By name of the provider."""
