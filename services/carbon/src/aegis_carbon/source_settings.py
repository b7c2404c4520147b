"""Settings of single providers, and how their keys are read."""

from __future__ import annotations

import re
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from string import Formatter
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aegis_carbon.domain.intensity import LONGEST_SLOT, Signal
from aegis_common.errors import ConfigurationError
from aegis_common.settings import Seconds

PROVIDERS: Final = ("uk", "electricity_maps", "watttime", "http", "file", "replay")
"""Those that come with the service."""
GROUP: Final = "aegis.carbon.providers"
"""Entry points of those that come with other packages."""
_CONFIG: Final = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_ZONE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PLACEHOLDERS: Final = {"zone", "start", "end"}


def known_and_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return *names* of providers.

    Raises:
        ValueError: No installed package has one of them, or one stands there twice.
    """
    known = [*PROVIDERS, *sorted(entry_points(group=GROUP).names)]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no provider {name!r}; there are {', '.join(known)}")
    if len(set(names)) != len(names):
        raise ValueError(f"each provider may stand there once: {', '.join(names)}")
    return names


def _mapping(zones: object) -> object:
    return {zone: zone for zone in zones} if isinstance(zones, list | tuple) else zones


def _zone_ids(zones: dict[str, str]) -> dict[str, str]:
    for zone in zones:
        if not _ZONE.fullmatch(zone):
            raise ValueError(f"{zone!r} is no zone id: letters, digits, '-' and '_', at most 63")
    return zones


def http_url(url: str) -> str:
    """Return *url*, empty or absolute.

    Raises:
        ValueError: It is of another kind, or has a user or password in it.
    """
    parts = urlsplit(url)  # raises ValueError itself
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user or password in it, which logs would show; name a file with the key")
    if url and not (parts.scheme in ("https", "http") and parts.hostname):
        raise ValueError(f"{url!r} is not a URL that begins with https:// or http://")
    return url


def _template(url: str) -> str:
    found = [(name, form, turn) for _, name, form, turn in Formatter().parse(url) if name is not None]
    if any(name not in _PLACEHOLDERS or form or turn for name, form, turn in found):
        raise ValueError(f"{url!r} has a placeholder other than {{zone}}, {{start}} and {{end}}")
    if not url.startswith("/") or url.startswith("//"):
        http_url(url)
        if "{" in urlsplit(url).netloc or not url:
            raise ValueError(f"{url!r} has no fixed host; begin with https://HOST/, or / for CARBON_API_URL")
    return url


Url = Annotated[str, AfterValidator(http_url)]
Zones = Annotated[
    dict[str, str], BeforeValidator(_mapping), AfterValidator(_zone_ids), Field(min_length=1, max_length=1000)
]
"""Zones to offer: a list of ids, or a mapping from the zone ids of this service to those of the provider."""


class HttpQuestion(BaseModel):
    """A kind of question, and where its answer has what. Paths are dotted; a number indexes a list."""

    model_config = _CONFIG

    url: Annotated[str, AfterValidator(_template)]
    """May hold `{zone}`, `{start}` and `{end}`; one that begins with `/` follows `CARBON_API_URL`."""
    rows: str = ""
    """Path from the answer to its rows, or to the only one; may hold `{zone}`. Empty: the answer itself."""
    value: str
    """Path from a row to the intensity."""
    start: str
    """Path from a row to the start of its slot: ISO 8601, or seconds or milliseconds since 1970."""
    end: str = ""
    """Path to the end of the slot. If empty, `step` says it."""
    estimated: str = ""
    """Path to what is true where the value was not measured; such a value is labelled a forecast."""


class HttpSettings(BaseModel):
    """The provider `http`: any JSON API."""

    model_config = _CONFIG

    current: HttpQuestion | None = None
    """Asks for the present value. If omitted, `ahead` is asked, or else `past` for the last day."""
    past: HttpQuestion | None = None
    """Asks for measured values from `{start}` to `{end}`."""
    ahead: HttpQuestion | None = None
    """Asks for the forecast, from now (`{start}`) until `horizon` ahead (`{end}`)."""
    zones: Zones
    unit: Literal["g/kWh", "kg/MWh", "lb/MWh"] = "g/kWh"
    signal: Signal = Signal.AVERAGE
    step: Seconds | None = Field(default=None, gt=timedelta(0), le=LONGEST_SLOT)
    """Length of a slot, where answers do not say its end."""
    horizon: Seconds = Field(default=timedelta(hours=48), gt=timedelta(0), le=timedelta(days=14))
    longest_span: Seconds = Field(default=timedelta(days=10), gt=timedelta(0), le=timedelta(days=366))
    """Longest span of one request for the past; a longer one is split."""
    time_format: str = "%Y-%m-%dT%H:%M:%SZ"
    """How `{start}` and `{end}` are written (`strftime`, UTC); `epoch` for seconds since 1970."""
    header: str = Field(default="authorization", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """Header that carries the content of `header_file`."""
    header_file: Path | None = None
    """File with the whole value of the header, for example `Bearer KEY`; only for https."""

    @property
    def questions(self) -> list[HttpQuestion]:
        return [question for question in (self.current, self.past, self.ahead) if question is not None]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.questions:
            raise ValueError("names no URL: set current, past or ahead")
        if self.step is None and not all(question.end for question in self.questions):
            raise ValueError("has neither a path to the end of a slot in each question nor a step")
        return self


class ElectricityMapsSettings(BaseModel):
    """The provider `electricity_maps`."""

    model_config = _CONFIG

    key_file: Path
    """File with the key."""
    zones: Zones
    """What the key may ask for, for example `["DE", "US-CAL-CISO"]`."""
    emission_factors: Literal["lifecycle", "direct"] = "lifecycle"
    """With the emissions of building and fuelling plants, or without."""
    url: Url = "https://api.electricitymaps.com/v3"


class WattTimeSettings(BaseModel):
    """The provider `watttime`."""

    model_config = _CONFIG

    user_file: Path
    """File with the name of the account."""
    password_file: Path
    """File with its password."""
    zones: Zones
    """What the account may ask for, for example `["CAISO_NORTH"]`."""
    signal_type: Literal["co2_moer", "co2_aoer"] = "co2_moer"
    """Marginal or average emissions."""
    url: Url = "https://api.watttime.org"


def read_secret(path: Path, variable: str, *, url: str) -> str:
    """Return what the file *path* holds, without white space around it, to be sent to *url*.

    Raises:
        ConfigurationError: It cannot be read, holds none or not one line, or would travel without TLS.
    """
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{variable} cannot be read: {error}") from error
    check_secret(secret, variable, url=url)
    return secret


def check_secret(secret: str, what: str, *, url: str) -> None:
    """Refuse a secret that no header can carry, or that would be sent without TLS to another machine.

    Raises:
        ConfigurationError: It is such a one; the message says *what*, and not the secret.
    """
    if not secret or not secret.isascii() or not secret.isprintable():
        # The HTTP library would show it in its error.
        raise ConfigurationError(f"{what} is not one line of plain text")
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ConfigurationError(f"{what} would be sent without TLS to {parts.hostname}; use an https URL")
