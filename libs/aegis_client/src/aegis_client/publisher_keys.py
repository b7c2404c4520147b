"""The keys with which one signs the models that one brings."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aegis_client import publisher_forms as forms
from aegis_client.core.operation import Operation
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.profiles import Profile
from aegis_client.publisher_forms import Publisher, PublisherKey


class PublisherKeysSurface:
    publisher = unary(forms.who)
    list = stream(forms.list_keys)
    revoke = unary(forms.revoke)


class PublisherKeys(PublisherKeysSurface, SyncApi):
    """`Client.publisher_keys`."""

    def enroll(
        self, key: Path | str | None = None, *, description: str = "", timeout: float | None = None
    ) -> PublisherKey:
        """Enroll the caller's key, after which models signed with it are taken; again changes nothing.

        The private half stays here: what is sent is the public one, and the proof that the caller has both.

        Args:
            key: File of the private key, Ed25519 in PEM; made, for its owner only, where there is none. None
                means the profile's own: `publisher-keys/PROFILE.key` beside the profile file.
            description: What the key is, for people, up to 200 characters.
            timeout: Deadline of the call, in seconds.

        Raises:
            UsageError: The file cannot be made or read, or holds another kind of key.
            AlreadyExists: Reason `PUBLISHER_KEY_TAKEN`: another caller of the tenant has enrolled it.
            FailedPrecondition: Reason `PUBLISHER_KEY_REVOKED` or `PUBLISHER_KEYS_DISABLED`.
            ResourceExhausted: Reason `TOO_MANY_PUBLISHER_KEYS`.
            FailedPrecondition: Reason `PUBLISHER_KEY_REVOKED` or `PUBLISHER_KEYS_USED_UP`.
        """
        publisher: Publisher = self.transport.call(forms.who())
        return self.transport.call(_proven(self.transport.profile, key, publisher, description, timeout))


class AsyncPublisherKeys(PublisherKeysSurface, AsyncApi):
    """`AsyncClient.publisher_keys`."""

    async def enroll(
        self,
        key: Path | str | None = None,
        *,
        description: str = "",
        timeout: float | None = None,  # noqa: ASYNC109  # it is the call's deadline
    ) -> PublisherKey:
        """Enroll the caller's key; see `PublisherKeys.enroll`."""
        publisher: Publisher = await self.transport.call(forms.who())
        profile = self.transport.profile
        return await self.transport.call(
            await asyncio.to_thread(_proven, profile, key, publisher, description, timeout)
        )


def _proven(
    profile: Profile, key: Path | str | None, publisher: Publisher, description: str, timeout: float | None
) -> Operation[PublisherKey]:
    from aegis_client import publisher_files as files  # noqa: PLC0415  # most clients never need cryptography

    signer = files.load_or_make(files.key_place(profile, key))
    return forms.enroll(files.raw_public_key(signer), files.proof(signer, publisher), description, timeout)
