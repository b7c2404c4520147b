"""Everything an operator can set, read once at start-up from AEGIS_CARBON_* and the original variables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from aegis_carbon.domain.schedule import DEFAULT_THRESHOLD, MAX_THRESHOLD
from aegis_carbon.source_settings import (
    ElectricityMapsSettings,
    HttpSettings,
    Url,
    WattTimeSettings,
    check_secret,
    known_and_once,
    read_secret,
)
from aegis_common.errors import ConfigurationError
from aegis_common.settings import Seconds, ServiceSettings

PUBLIC_UK_API: Final = "https://api.carbonintensity.org.uk"
ORIGINAL_VARIABLES: Final[Mapping[str, str]] = {
    "CARBON_API_URL": "api_url",
    "CARBON_API_KEY": "api_key",
    "CARBON_CACHE_TTL": "cache_ttl",
    "CARBON_INTENSITY_THRESHOLD": "intensity_threshold",
    "REDIS_URL": "redis_url",
    "AEGIS_CACHE_REDIS_URL": "cache_redis_url",
}
_CONFIG: Final = SettingsConfigDict(
    env_prefix="AEGIS_CARBON_",
    env_nested_delimiter="__",
    frozen=True,
    extra="forbid",
    # A wrong value may be a secret in the wrong place.
    hide_input_in_errors=True,
)


def _names(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _redis_url(url: SecretStr) -> SecretStr:
    if url and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("does not begin with redis://, rediss:// or unix://")
    return url


Threshold = Annotated[float, Field(gt=0, le=MAX_THRESHOLD)]


class IntensitySettings(BaseSettings):
    """Where intensities come from; all that `CarbonScheduler` needs. Times: seconds, or ISO 8601 (`PT5M`)."""

    model_config = _CONFIG

    providers: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(known_and_once)
    ] = Field(default=("uk", "replay"), min_length=1)
    """Providers in order of preference, separated by commas; a zone uses those that cover it."""
    default_zone: str = ""
    """Zone of a call that names none. If empty: the first zone of the first provider that is set up (`uk` is
    by `CARBON_API_URL`, or where there is no `replay`), else the replay file's `demo-day`, or its first."""
    intensity_threshold: Threshold = DEFAULT_THRESHOLD
    """Highest intensity at which work starts, in gCO2e/kWh; above 0, at most 5000. Also
    `CARBON_INTENSITY_THRESHOLD`."""
    zone_thresholds: dict[str, Threshold] = {}
    """The same for single zones, as JSON: `{"GB": 100}`."""
    api_url: Url = ""
    """Base URL of a mirror of the UK Carbon Intensity API; empty is the public one. URLs of `http` that
    begin with `/` follow it. Also `CARBON_API_URL`."""
    api_key_file: Path | None = None
    """File with a key for a private mirror, sent as a bearer token; the public API takes none."""
    api_key: SecretStr = SecretStr("")
    """The key itself; prefer `api_key_file`, which does not show in the process's environment. Also
    `CARBON_API_KEY`."""
    http: HttpSettings | None = None
    """Describes the API of the provider `http`, as JSON."""
    electricity_maps: ElectricityMapsSettings | None = None
    """Key and zones of the provider `electricity_maps`, as JSON."""
    watttime: WattTimeSettings | None = None
    """Account and zones of the provider `watttime`, as JSON."""
    provider_options: dict[str, dict[str, Any]] = {}
    """What providers of other packages are to know, by name, as JSON; secrets are paths of files."""
    file: Path | None = None
    """CSV or JSON series of the provider `file`, which somebody keeps up to date."""
    replay_file: Path | None = None
    """CSV or JSON series of the provider `replay`. If omitted, the synthetic week of the package."""
    replay_speed: int = Field(default=1, ge=1, le=10_000)
    """How much faster than time `replay` runs: at 1440 a day passes in a minute. For demonstrations."""
    cache_redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("")
    """Redis that replicas share their answers in; if empty, `redis_url`; without either, each process has its
    own memory. Also `AEGIS_CACHE_REDIS_URL`."""
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("")
    """Redis that keeps what it acknowledges: it holds the ledger and the reservations. If empty, there are
    none. Also `REDIS_URL`."""
    cache_ttl: Seconds = Field(default=timedelta(minutes=5), gt=timedelta(0), le=timedelta(days=1))
    """How long a value is used before its provider is asked again. Also `CARBON_CACHE_TTL`."""
    max_stale: Seconds = Field(default=timedelta(hours=2), ge=timedelta(0), le=timedelta(days=2))
    """How long after the end of its slot a value is still used, labelled stale."""
    failure_pause: Seconds = Field(default=timedelta(seconds=60), gt=timedelta(0), le=timedelta(hours=1))
    """How long a provider is left alone after a failure."""
    request_timeout: Seconds = Field(default=timedelta(seconds=3), gt=timedelta(0), le=timedelta(minutes=1))
    """Longest time for one request to a provider."""
    provider_budget: Seconds = Field(default=timedelta(seconds=5), gt=timedelta(0), le=timedelta(minutes=1))
    """Longest time for one question to a provider, retries included."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # no file is read unasked
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _OriginalVariables(settings_cls)

    @property
    def cache_url(self) -> str:
        """URL of the Redis that replicas share their answers in, or an empty string."""
        return (self.cache_redis_url or self.redis_url).get_secret_value()

    @property
    def uk_api(self) -> str:
        """Base URL of the UK API to use."""
        return self.api_url or PUBLIC_UK_API

    def key(self) -> str:
        """Return the key for the mirror at `api_url`, or an empty string.

        Raises:
            ConfigurationError: The file cannot be read, or the key would be sent to the public API, which
                takes none, or without TLS to another machine, or it is not one line of plain text.
        """
        key = self.api_key.get_secret_value()
        if self.api_key_file is not None:
            key = read_secret(self.api_key_file, "AEGIS_CARBON_API_KEY_FILE", url=self.uk_api)
        if key and urlsplit(self.uk_api).hostname == urlsplit(PUBLIC_UK_API).hostname:
            raise ConfigurationError("the public UK API takes no key; CARBON_API_URL names a mirror")
        if key:
            check_secret(key, "CARBON_API_KEY", url=self.uk_api)
        return key


class _OriginalVariables(EnvSettingsSource):
    """The variables without a prefix, for whoever makes the settings without `load`."""

    def __call__(self) -> dict[str, Any]:
        return {
            field: value
            for name, field in ORIGINAL_VARIABLES.items()
            if (value := self.env_vars.get(name.lower()))
        }


class PowerSettings(BaseModel):
    """What turns usage into energy, and what the hardware took to make."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pue: float | None = Field(default=None, ge=1, le=10)
    """Energy of the building per energy of its computers. If omitted, 1.2, within 1.0 to 1.6."""
    cpu_tdp_w: float | None = Field(default=None, gt=0, le=10_000)
    """Thermal design power of a processor, in watts; with `cpu_threads` it makes the power of a busy core,
    within -50 to +30 %. If omitted, 4 W, within 1 to 12 W."""
    cpu_threads: int | None = Field(default=None, ge=1, le=10_000)
    """Threads of that processor."""
    watts_per_gib: float | None = Field(default=None, ge=0, le=100)
    """Power of a GiB of memory, within -50 to +50 %. If omitted, 0.38 W, within 0.1 to 0.8 W."""
    embodied_kg: float | None = Field(default=None, ge=0, le=1e6)
    """Emissions of making one server, in kg of CO2-equivalent. If omitted, SCI is without them."""
    lifespan: timedelta = Field(default=timedelta(days=4 * 365), gt=timedelta(0))
    """How long a server is used."""
    cores: int | None = Field(default=None, ge=1, le=100_000)
    """Cores of that server; goes with `embodied_kg`."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        for one, other in (("cpu_tdp_w", "cpu_threads"), ("embodied_kg", "cores")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} go together")
        return self


class Settings(IntensitySettings, ServiceSettings):
    """Settings of the service: where intensities come from, and what every service needs."""

    model_config = _CONFIG
    original_variables: ClassVar[Mapping[str, str]] = {
        **ServiceSettings.original_variables,
        **ORIGINAL_VARIABLES,
    }

    store_check: Literal["strict", "warn"] = "strict"
    """What to do about a `redis_url` that may lose writes: keep nothing there, or only warn."""
    power: PowerSettings = PowerSettings()
    """Turns usage into energy, as JSON."""
    ledger_retention: Seconds = Field(
        default=timedelta(days=90), ge=timedelta(days=32), le=timedelta(days=3660)
    )
    """How long an entry of the ledger is kept; it stays in the daily sums for 3 years."""
    max_ledger_entries: int = Field(default=200_000, ge=1000, le=100_000_000)
    """Most entries of a tenant; beyond, the oldest go. They stay in the daily sums."""
    restate_every: Seconds = Field(default=timedelta(seconds=15), gt=timedelta(0), le=timedelta(hours=1))
    """How often entries are looked for that better intensities are out for."""
    reservation_retention: Seconds = Field(
        default=timedelta(days=7), ge=timedelta(minutes=1), le=timedelta(days=365)
    )
    """How long a reservation is kept after its end."""
    max_reservations: int = Field(default=1000, ge=1, le=100_000)
    """Most reservations of a tenant that have not ended."""
    capacity_pools: dict[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")], Annotated[int, Field(ge=1, le=10_000)]
    ] = {}
    """How many reservations of a capacity pool may run at once, by name, as JSON: `{"gpus": 4}`."""
    replan_every: Seconds = Field(default=timedelta(seconds=30), gt=timedelta(0), le=timedelta(hours=1))
    """How often a reservation that waits is looked at for a new forecast."""
    refresh: Seconds = Field(default=timedelta(seconds=15), gt=timedelta(0), le=timedelta(hours=1))
    """How often zones that were asked for in the last hour are looked at for a refresh in the background."""
