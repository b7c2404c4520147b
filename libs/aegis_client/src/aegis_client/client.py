"""`Client` and `AsyncClient`: the same surface, once blocking and once awaited."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aegis_client.artifacts import Artifacts, AsyncArtifacts
from aegis_client.carbon import AsyncCarbon, Carbon
from aegis_client.core.asynchronous import AsyncTransport
from aegis_client.core.retry import RetryPolicy
from aegis_client.core.synchronous import SyncTransport
from aegis_client.errors import UsageError
from aegis_client.jobs import AsyncJobs, Jobs
from aegis_client.models import AsyncModels, Models
from aegis_client.nodes import AsyncNodes, Nodes
from aegis_client.profiles import Profile, load_profile
from aegis_client.publisher_keys import AsyncPublisherKeys, PublisherKeys
from aegis_client.reservations import AsyncReservations, Reservations
from aegis_client.tools import AsyncTools, Tools
from aegis_client.training import AsyncTraining, Training
from aegis_client.training_apps import AsyncTrainingApps, TrainingApps

_DEFAULT_POLICY: Final = RetryPolicy()


class _Configured:
    """What both clients are made from.

    Args:
        profile: Where the services are and who calls; `Client.from_profile()` reads one from a file.
        address: Instead of a profile: `host:port`, with the other fields of `Profile` as keywords.
        retry: How failed calls are sent again.

    Raises:
        ProfileError: The address or the credentials are incomplete.
        UsageError: Both or neither of profile and address are given.
    """

    def __init__(
        self,
        profile: Profile | None = None,
        *,
        address: str = "",
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        key: Path | str | None = None,
        server_name: str = "",
        token: str = "",
        token_file: Path | str | None = None,
        retry: RetryPolicy = _DEFAULT_POLICY,
    ) -> None:
        if bool(profile) == bool(address):
            raise UsageError("give a profile or an address, one of the two")
        self.profile = profile or Profile(
            address=address,
            ca=_path(ca),
            cert=_path(cert),
            key=_path(key),
            server_name=server_name,
            token=token,
            token_file=_path(token_file),
        )
        self._connect(retry)

    @classmethod
    def from_profile(cls, name: str | None = None, *, file: Path | str | None = None, **options: Any) -> Self:
        """Make a client from a profile file; see `load_profile` for where it is looked for.

        Raises:
            ProfileError: There is no such file or profile, or it has an unknown or bad key.
        """
        return cls(load_profile(name, file=file), **options)

    def _connect(self, retry: RetryPolicy) -> None:
        raise NotImplementedError


class Client(_Configured):
    """Calls an AEGIS deployment and waits; safe to use from several threads.

    Connects when first used. Use it in a `with` block, or call `close()`.
    """

    tools: Tools
    jobs: Jobs
    carbon: Carbon
    reservations: Reservations
    training: Training
    models: Models
    publisher_keys: PublisherKeys
    artifacts: Artifacts
    nodes: Nodes
    training_apps: TrainingApps

    def _connect(self, retry: RetryPolicy) -> None:
        self._transport = SyncTransport(self.profile, retry)
        self.tools = Tools(self._transport)
        self.jobs = Jobs(self._transport)
        self.carbon = Carbon(self._transport)
        self.reservations = Reservations(self._transport)
        self.training = Training(self._transport)
        self.models = Models(self._transport)
        self.publisher_keys = PublisherKeys(self._transport)
        self.artifacts = Artifacts(self._transport)
        self.nodes = Nodes(self._transport)
        self.training_apps = TrainingApps(self._transport)

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient(_Configured):
    """Calls an AEGIS deployment from one event loop.

    Connects when first used. Use it in an `async with` block, or await `close()`.
    """

    tools: AsyncTools
    jobs: AsyncJobs
    carbon: AsyncCarbon
    reservations: AsyncReservations
    training: AsyncTraining
    models: AsyncModels
    publisher_keys: AsyncPublisherKeys
    artifacts: AsyncArtifacts
    nodes: AsyncNodes
    training_apps: AsyncTrainingApps

    def _connect(self, retry: RetryPolicy) -> None:
        self._transport = AsyncTransport(self.profile, retry)
        self.tools = AsyncTools(self._transport)
        self.jobs = AsyncJobs(self._transport)
        self.carbon = AsyncCarbon(self._transport)
        self.reservations = AsyncReservations(self._transport)
        self.training = AsyncTraining(self._transport)
        self.models = AsyncModels(self._transport)
        self.publisher_keys = AsyncPublisherKeys(self._transport)
        self.artifacts = AsyncArtifacts(self._transport)
        self.nodes = AsyncNodes(self._transport)
        self.training_apps = AsyncTrainingApps(self._transport)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _path(value: Path | str | None) -> Path | None:
    return Path(value) if value else None
