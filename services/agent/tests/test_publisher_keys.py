"""Publisher keys: who may enroll and revoke them, and which records of them count."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from services.agent.tests.model_publisher import ADA, Publisher, enroll, raw

from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys
from aegis_agent.domain.publisher_errors import (
    PublisherKeyOfAnother,
    PublisherKeyRevoked,
    PublisherKeysDisabled,
    PublisherKeyTaken,
    PublisherKeyWeak,
    PublisherProofInvalid,
    TooManyPublisherKeys,
    UnknownPublisherKey,
)
from aegis_agent.domain.publishers import MAX_ACTIVE_KEYS, KeyState, Owner, Publishers
from aegis_common.signing import Signer
from aegis_common.store.sealed import RecordSeal

BOB = Owner("default", "bob", frozenset({"trainer"}))
ADMIN = Owner("default", "root", frozenset({"admin"}))


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


@pytest.fixture
def publishers(publisher: Publisher) -> Publishers:
    return publisher.publishers()


@pytest.fixture
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


async def test_a_key_is_enrolled_once_and_seen_by_every_agent(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    first = await enroll(publishers, signer, ADA)
    again = await enroll(publisher.publishers(), signer, ADA)

    assert first == again
    assert await publisher.publishers().keys("default") == [first]
    assert (first.key_id, first.public_key, first.subject, first.description) == (
        signer.key_id, raw(signer), "ada", "of ada",
    )  # fmt: skip
    assert first.state is KeyState.ACTIVE
    assert await publishers.keys("blue") == []


@pytest.mark.parametrize("named", [replace(ADA, tenant="blue"), replace(ADA, subject="bob")])
async def test_a_proof_for_somebody_else_is_refused(
    publishers: Publishers, signer: Signer, named: Owner
) -> None:
    with pytest.raises(PublisherProofInvalid, match="tenant 'default' and subject 'ada'"):
        await enroll(publishers, signer, ADA, proved_for=named)
    assert await publishers.keys("default") == []


async def test_a_proof_by_another_key_is_refused(publishers: Publishers, signer: Signer) -> None:
    other = Signer(Ed25519PrivateKey.generate())

    with pytest.raises(PublisherProofInvalid):
        await publishers.enroll(ADA, raw(other), key_id=other.key_id, proof=bytes(64), description="")


PRIME = 2**255 - 19
ORDER_8 = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
OTHER_ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
SMALL_ORDER = [
    *(number.to_bytes(32, "little") for number in (0, 1, PRIME - 1, PRIME, PRIME + 1)), ORDER_8, OTHER_ORDER_8
]  # fmt: skip


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("key", SMALL_ORDER, ids=bytes.hex)
async def test_a_key_that_anybody_can_sign_for_is_refused(
    publishers: Publishers, key: bytes, sign: int
) -> None:
    key = key[:-1] + bytes([key[-1] | sign])
    neutral = (1).to_bytes(32, "little")  # with S = 0 it is a signature by the neutral point of anything

    with pytest.raises(PublisherKeyWeak, match="small order"):
        await publishers.enroll(ADA, key, key_id="0" * 16, proof=neutral + bytes(32), description="")
    assert await publishers.keys("default") == []


async def test_a_key_that_somebody_else_has_enrolled_is_taken_in_its_tenant(
    publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)

    with pytest.raises(PublisherKeyTaken):
        await enroll(publishers, signer, BOB)
    blue = await enroll(publishers, signer, replace(ADA, tenant="blue"))
    assert (blue.tenant, blue.key_id) == ("blue", signer.key_id)


async def test_a_revoked_key_never_comes_back(publishers: Publishers, signer: Signer) -> None:
    await enroll(publishers, signer, ADA)
    revoked = (await publishers.revoke(ADA, signer.key_id, compromised=False)).value

    with pytest.raises(PublisherKeyRevoked):
        await enroll(publishers, signer, ADA)
    assert (revoked.state, revoked.revoked_by) == (KeyState.RETIRED, "ada")


async def test_one_revokes_ones_own_keys_and_an_admin_any(publishers: Publishers, signer: Signer) -> None:
    await enroll(publishers, signer, ADA)

    with pytest.raises(PublisherKeyOfAnother, match="is ada's"):
        await publishers.revoke(BOB, signer.key_id, compromised=True)
    with pytest.raises(UnknownPublisherKey):
        await publishers.revoke(replace(ADMIN, tenant="blue"), signer.key_id, compromised=True)
    revoked = (await publishers.revoke(ADMIN, signer.key_id, compromised=True)).value
    assert (revoked.state, revoked.revoked_by) == (KeyState.COMPROMISED, "root")


async def test_a_retired_key_may_turn_out_to_be_compromised_and_stays_so(
    publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    states = [
        (await publishers.revoke(ADA, signer.key_id, compromised=compromised)).value.state
        for compromised in (False, False, True, False)
    ]

    assert states == [KeyState.RETIRED, KeyState.RETIRED, KeyState.COMPROMISED, KeyState.COMPROMISED]


async def test_a_tenant_has_a_bounded_number_of_active_keys(publishers: Publishers) -> None:
    keys = [Signer(Ed25519PrivateKey.generate()) for _ in range(MAX_ACTIVE_KEYS)]
    for key in keys:
        await enroll(publishers, key, ADA)
    more = Signer(Ed25519PrivateKey.generate())

    with pytest.raises(TooManyPublisherKeys, match="100 active"):
        await enroll(publishers, more, BOB)
    await enroll(publishers, keys[0], ADA)
    await publishers.revoke(ADA, keys[0].key_id, compromised=False)
    assert (await enroll(publishers, more, BOB)).state is KeyState.ACTIVE


async def test_records_by_another_records_key_count_for_nothing(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    stranger = StoredPublisherKeys(publisher.objects, RecordSeal(Signer(Ed25519PrivateKey.generate())))

    assert await stranger.keys("default") == {}


async def test_a_record_that_is_copied_to_another_tenant_counts_for_nothing(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    shutil.copytree(publisher.folder / "default", publisher.folder / "blue")

    assert await publishers.keys("blue") == []
    assert [key.key_id for key in await publishers.keys("default")] == [signer.key_id]


async def test_a_revocation_that_was_seen_counts_even_if_its_record_is_removed(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    await publishers.revoke(ADA, signer.key_id, compromised=True)
    await publisher.objects.delete(f"default/publisher-keys/{signer.key_id}/compromised.json")

    assert [key.state for key in await publishers.keys("default")] == [KeyState.COMPROMISED]


async def test_a_key_with_a_revocation_that_nobody_can_read_counts_for_nothing(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    await publisher.objects.put(f"default/publisher-keys/{signer.key_id}/retired.json", b"junk")

    assert await publishers.keys("default") == []


async def test_what_is_no_record_beside_the_records_harms_nobody(
    publisher: Publisher, publishers: Publishers, signer: Signer
) -> None:
    await enroll(publishers, signer, ADA)
    for place in ("junk", "odd/junk", f"{signer.key_id}/more/junk.json", f"{signer.key_id}/notes.txt"):
        await publisher.objects.put(f"default/publisher-keys/{place}", b"junk")

    assert [key.key_id for key in await publishers.keys("default")] == [signer.key_id]


async def test_without_a_records_key_there_are_no_publisher_keys(
    publisher: Publisher, signer: Signer
) -> None:
    keys = StoredPublisherKeys(publisher.objects, None)

    async def nobody(tenant: str) -> str:
        raise AssertionError(tenant)

    with pytest.raises(PublisherKeysDisabled, match="AEGIS_AGENT_RECORDS_KEY"):
        await enroll(Publishers(keys, nobody), signer, ADA)
