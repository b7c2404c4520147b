"""Makes the providers that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx

from aegis_carbon.adapters import electricity_maps
from aegis_carbon.adapters.file import FileProvider
from aegis_carbon.adapters.http import HttpApi, HttpProvider, Shape
from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.replay import PACKAGED, ReplayProvider
from aegis_carbon.adapters.retrying import RetryingProvider
from aegis_carbon.adapters.series import read_series
from aegis_carbon.adapters.uk import UkProvider
from aegis_carbon.adapters.watttime import Login, WattTimeProvider
from aegis_carbon.domain.providers import IntensityProvider
from aegis_carbon.plugins import ProviderKit, installed_provider
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.source_settings import HttpQuestion, HttpSettings, read_secret
from aegis_common.clock import Clock
from aegis_common.errors import ConfigurationError

USER_AGENT: Final = "aegis-carbon"
_MOST_CONNECTIONS: Final = 8
_CONNECT_TIMEOUT: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What providers are made of.

    Attributes:
        settings: Where intensities come from.
        clock: Present time.
        stack: Closes connections in the end.
    """

    settings: IntensitySettings
    clock: Clock
    stack: AsyncExitStack

    def api(self, base_url: str, headers: Mapping[str, str]) -> JsonApi:
        """Return what asks the API at *base_url* (may be empty), sending *headers*.

        Raises:
            ConfigurationError: The URL or a header cannot be used.
        """
        timeout = self.settings.request_timeout
        try:
            # No redirects: they could carry a key, or a request, out of the egress allow-list.
            client = httpx.AsyncClient(
                base_url=base_url,
                headers={"user-agent": USER_AGENT, "accept": "application/json", **headers},
                timeout=httpx.Timeout(timeout.total_seconds(), connect=_CONNECT_TIMEOUT.total_seconds()),
                limits=httpx.Limits(max_connections=_MOST_CONNECTIONS),
                follow_redirects=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigurationError(f"the URL or key of a provider cannot be used: {error}") from None
        self.stack.push_async_callback(client.aclose)
        return JsonApi(client, clock=self.clock, timeout=timeout)


def make_providers(workshop: Workshop) -> list[IntensityProvider]:
    """Return the providers that the settings name, in their order.

    Raises:
        ConfigurationError: Settings of one are missing or do not fit, or there are options for nobody.
    """
    settings = workshop.settings
    foreign = set(settings.providers) - set(_MAKERS)
    for name in settings.provider_options:
        if name not in foreign:
            raise ConfigurationError(
                f"AEGIS_CARBON_PROVIDER_OPTIONS has options for {name!r}, which is no provider of another "
                "package in AEGIS_CARBON_PROVIDERS",
                name=name,
            )
    return [make_provider(name, workshop) for name in settings.providers]


def make_provider(name: str, workshop: Workshop) -> IntensityProvider:
    """Return the provider *name*; one that asks over a network tries again what may work soon.

    Raises:
        ConfigurationError: Its settings are missing or do not fit.
    """
    if name in _MAKERS:
        made = _MAKERS[name](workshop)
    else:
        options = workshop.settings.provider_options.get(name, {})
        made = installed_provider(name, ProviderKit(options, workshop.clock, workshop.api))
    if not made.capabilities.live:
        return made
    return RetryingProvider(made, budget=workshop.settings.provider_budget)


def _replay(workshop: Workshop) -> IntensityProvider:
    settings = workshop.settings
    series = read_series(settings.replay_file or PACKAGED)
    return ReplayProvider(series, clock=workshop.clock, speed=settings.replay_speed)


def _file(workshop: Workshop) -> IntensityProvider:
    path = workshop.settings.file
    if path is None:
        raise ConfigurationError("provider file needs AEGIS_CARBON_FILE, the path of a CSV or JSON series")
    return FileProvider(path, clock=workshop.clock)


def _uk(workshop: Workshop) -> IntensityProvider:
    key = workshop.settings.key()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return UkProvider(workshop.api(workshop.settings.uk_api, headers), clock=workshop.clock)


def _electricity_maps(workshop: Workshop) -> IntensityProvider:
    about = workshop.settings.electricity_maps
    if about is None:
        raise ConfigurationError("provider electricity_maps needs AEGIS_CARBON_ELECTRICITY_MAPS")
    key = read_secret(about.key_file, "AEGIS_CARBON_ELECTRICITY_MAPS__KEY_FILE", url=about.url)
    api = workshop.api(about.url, {electricity_maps.KEY_HEADER: key})
    return electricity_maps.ElectricityMapsProvider(
        api, zones=about.zones, emission_factors=about.emission_factors, clock=workshop.clock
    )


def _watttime(workshop: Workshop) -> IntensityProvider:
    about = workshop.settings.watttime
    if about is None:
        raise ConfigurationError("provider watttime needs AEGIS_CARBON_WATTTIME")
    user = read_secret(about.user_file, "AEGIS_CARBON_WATTTIME__USER_FILE", url=about.url)
    password = read_secret(about.password_file, "AEGIS_CARBON_WATTTIME__PASSWORD_FILE", url=about.url)
    login = Login(workshop.api(about.url, {}), user=user, password=password, clock=workshop.clock)
    return WattTimeProvider(login, zones=about.zones, signal_type=about.signal_type, clock=workshop.clock)


def _http(workshop: Workshop) -> IntensityProvider:
    about = workshop.settings.http
    if about is None:
        raise ConfigurationError("provider http needs AEGIS_CARBON_HTTP, which describes the API")
    base = workshop.settings.api_url
    urls = [question.url if question.url[:1] != "/" else base for question in about.questions]
    if not all(urls):
        raise ConfigurationError("a URL of AEGIS_CARBON_HTTP begins with /, and CARBON_API_URL is not set")
    headers = {}
    if about.header_file is not None:
        for url in urls:
            headers[about.header] = read_secret(about.header_file, "AEGIS_CARBON_HTTP__HEADER_FILE", url=url)
    return HttpProvider(workshop.api(base, headers), _http_api(about), clock=workshop.clock)


def _http_api(about: HttpSettings) -> HttpApi:
    return HttpApi(
        zones=about.zones,
        current=_shape(about.current),
        past=_shape(about.past),
        ahead=_shape(about.ahead),
        unit=about.unit,
        signal=about.signal,
        step=about.step,
        horizon=about.horizon,
        longest_span=about.longest_span,
        time_format=about.time_format,
    )


def _shape(question: HttpQuestion | None) -> Shape | None:
    return None if question is None else Shape(**question.model_dump())


_MAKERS: Final[Mapping[str, Callable[[Workshop], IntensityProvider]]] = {
    "uk": _uk,
    "file": _file,
    "replay": _replay,
    "http": _http,
    "electricity_maps": _electricity_maps,
    "watttime": _watttime,
}
