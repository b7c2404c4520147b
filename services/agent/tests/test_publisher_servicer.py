"""PublisherService over real mutual TLS: enrolled by the caller, for the caller's tenant."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from services.agent.tests.agent_stack import Stack, failure, running_stack
from services.agent.tests.model_publisher import raw

from aegis.agent.v1 import publisher_service_pb2 as pb
from aegis_common.errors import ErrorKind
from aegis_common.publisher_proof import proof_text
from aegis_common.signing import Signer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("agent"), tools=(), tools_dir=None) as made:
        yield made


async def enrolling(
    stack: Stack, signer: Signer, account: str = "sdk", description: str = ""
) -> pb.EnrollPublisherKeyRequest:
    who = await stack.publishers(account).GetPublisher(pb.GetPublisherRequest())
    proof = signer.sign(proof_text(who.tenant, who.subject, raw(signer)))
    return pb.EnrollPublisherKeyRequest(
        public_key=raw(signer), proof=base64.b64decode(proof), description=description
    )


async def test_a_key_is_enrolled_listed_and_revoked(stack: Stack) -> None:
    publishers, signer = stack.publishers("blue-trainer"), Signer(Ed25519PrivateKey.generate())
    who = await publishers.GetPublisher(pb.GetPublisherRequest())
    request = await enrolling(stack, signer, "blue-trainer", "laptop")
    enrolled = (await publishers.EnrollPublisherKey(request)).publisher_key
    again = (await publishers.EnrollPublisherKey(request)).publisher_key
    listed = await stack.publishers("blue").ListPublisherKeys(pb.ListPublisherKeysRequest())
    done = await publishers.RevokePublisherKey(pb.RevokePublisherKeyRequest(name=enrolled.name))
    revoked = done.publisher_key
    compromised = (
        await publishers.RevokePublisherKey(
            pb.RevokePublisherKeyRequest(name=enrolled.name, compromised=True)
        )
    ).publisher_key

    assert (who.tenant, who.subject) == ("blue", "blue-trainer")
    assert enrolled == again == listed.publisher_keys[0]
    assert (enrolled.name, enrolled.public_key, enrolled.subject, enrolled.description) == (
        f"publisherKeys/{signer.key_id}", raw(signer), who.subject, "laptop",
    )  # fmt: skip
    assert (enrolled.state, enrolled.HasField("revoke_time")) == (pb.PublisherKey.STATE_ACTIVE, False)
    assert (revoked.state, revoked.revoked_by) == (pb.PublisherKey.STATE_RETIRED, who.subject)
    assert [status.state for status in done.replicas] == [1]
    assert revoked.HasField("revoke_time")
    assert compromised.state == pb.PublisherKey.STATE_COMPROMISED


async def test_keys_come_in_pages_ordered_by_name(stack: Stack) -> None:
    publishers = stack.publishers()
    for _ in range(3):
        await publishers.EnrollPublisherKey(await enrolling(stack, Signer(Ed25519PrivateKey.generate())))
    names, token = [], ""
    while True:
        page = await publishers.ListPublisherKeys(pb.ListPublisherKeysRequest(page_size=2, page_token=token))
        names += [key.name for key in page.publisher_keys]
        token = page.next_page_token
        if not token:
            break

    assert len(names) == 3
    assert names == sorted(names)


async def test_refusals_say_why(stack: Stack) -> None:
    publishers, signer = stack.publishers(), Signer(Ed25519PrivateKey.generate())
    request = await enrolling(stack, signer)
    name = (await publishers.EnrollPublisherKey(request)).publisher_key.name
    other = stack.publishers("other-trainer")
    stolen = pb.RevokePublisherKeyRequest(name=name, compromised=True)

    assert (await failure(other.EnrollPublisherKey(request)))[:2] == (
        ErrorKind.INVALID_ARGUMENT, "PUBLISHER_PROOF_INVALID",
    )  # fmt: skip
    assert (await failure(other.RevokePublisherKey(stolen)))[:2] == (
        ErrorKind.PERMISSION_DENIED, "PUBLISHER_KEY_OF_ANOTHER",
    )  # fmt: skip
    assert (await failure(stack.publishers("blue-trainer").RevokePublisherKey(stolen)))[:2] == (
        ErrorKind.NOT_FOUND, "UNKNOWN_PUBLISHER_KEY",
    )  # fmt: skip
    assert (await failure(stack.publishers("blue").EnrollPublisherKey(request)))[0] is (
        ErrorKind.PERMISSION_DENIED
    )
    assert (await stack.publishers("admin").RevokePublisherKey(stolen)).publisher_key.state == (
        pb.PublisherKey.STATE_COMPROMISED
    )
    assert (await failure(publishers.EnrollPublisherKey(request)))[:2] == (
        ErrorKind.FAILED_PRECONDITION, "PUBLISHER_KEY_REVOKED",
    )  # fmt: skip


async def test_without_a_records_key_the_refusal_names_the_setting(tmp_path: Path) -> None:
    async with running_stack(tmp_path, records_key=None, tools=(), tools_dir=None) as stack:
        request = await enrolling(stack, Signer(Ed25519PrivateKey.generate()))
        kind, reason, metadata = await failure(stack.publishers().EnrollPublisherKey(request))

    assert (kind, reason) == (ErrorKind.FAILED_PRECONDITION, "PUBLISHER_KEYS_DISABLED")
    assert metadata["setting"] == "AEGIS_AGENT_RECORDS_KEY"
