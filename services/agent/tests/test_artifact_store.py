from __future__ import annotations

import asyncio
import hashlib
import json
import resource
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aegis_agent.adapters.artifacts.records import content_key, records_key
from aegis_agent.adapters.artifacts.store import ArtifactFilter, StoredArtifacts
from aegis_agent.adapters.artifacts.sweeper import GRACE, ArtifactSweeper
from aegis_agent.domain.artifacts import (
    Artifact,
    ArtifactDigestMismatch,
    ArtifactPolicy,
    ArtifactQuotaExceeded,
    ArtifactTooLarge,
    MediaTypeMismatch,
    NoUploadSpace,
    RetentionTooLong,
    UnknownArtifact,
)
from aegis_common.errors import InvalidPageToken
from aegis_common.store.connect import StoreOptions
from aegis_common.store.errors import RecordUnreadable
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.objects import s3_server

PNG = b"\x89PNG\r\n\x1a\n" + bytes(600)
ALL = ArtifactFilter()


class Now:
    """A clock that tests move; it begins at the present, which is what the store's own clock shows."""

    def __init__(self) -> None:
        self.moment = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.moment

    def pass_by(self, time: timedelta) -> None:
        self.moment += time


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreOptions]:
    with s3_server(tmp_path_factory.mktemp("s3")) as options:
        yield options


@pytest.fixture(params=["file", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return ObjectStore.open(f"file://{tmp_path}/objects")
    return ObjectStore.open(f"s3://models/{tmp_path.name}", options=request.getfixturevalue("s3"))


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def store(objects: ObjectStore, now: Now) -> StoredArtifacts:
    return StoredArtifacts(objects, ArtifactPolicy(), clock=now)


async def put(
    store: StoredArtifacts,
    data: bytes,
    *,
    tenant: str = "default",
    media_type: str = "",
    filename: str = "",
    retention: timedelta | None = None,
    holder: str = "",
) -> Artifact:
    with store.upload(media_type=media_type) as upload:
        await upload.add(data)
        await upload.finish()
        return await store.keep(tenant, upload, filename=filename, retention=retention, holder=holder)


async def content(
    store: StoredArtifacts, sha256: str, *, tenant: str = "default", offset: int = 0, limit: int | None = None
) -> bytes:
    pieces: AsyncIterator[bytes] = store.stream(tenant, sha256, offset=offset, limit=limit)
    return b"".join([piece async for piece in pieces])


async def contents(objects: ObjectStore, tenant: str = "default") -> list[str]:
    return await objects.list(content_key(tenant))


async def test_what_is_kept_is_found_by_its_digest(store: StoredArtifacts, now: Now) -> None:
    kept = await put(store, PNG, filename="a.png")

    assert kept.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (kept.media_type, kept.size_bytes, kept.filename) == ("image/png", len(PNG), "a.png")
    assert timedelta(days=7) <= kept.expires_at - now.moment < timedelta(days=7, seconds=1)
    assert await store.find("default", kept.sha256) == kept
    assert await content(store, kept.sha256) == PNG


async def test_what_another_process_kept_is_read_from_its_record(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    kept = await put(store, PNG, filename="ä.png")

    assert await StoredArtifacts(objects, ArtifactPolicy(), clock=now).find("default", kept.sha256) == kept


async def test_another_tenant_has_no_such_artifact(store: StoredArtifacts) -> None:
    kept = await put(store, PNG)

    with pytest.raises(UnknownArtifact):
        await store.find("blue", kept.sha256)
    with pytest.raises(UnknownArtifact):
        await content(store, kept.sha256, tenant="blue")
    assert await store.page("blue", ALL, size=0, token="") == ([], "")


async def test_two_tenants_have_the_same_content_apart(store: StoredArtifacts) -> None:
    mine = await put(store, PNG)
    await put(store, PNG, tenant="blue")
    await store.delete("default", mine.sha256)

    assert await content(store, mine.sha256, tenant="blue") == PNG


async def test_large_content_and_its_ranges_come_back_exactly(store: StoredArtifacts) -> None:
    data = bytes(range(256)) * (9 << 12) + b"end"
    kept = await put(store, data)

    assert await content(store, kept.sha256) == data
    assert await content(store, kept.sha256, offset=len(data) - 3) == b"end"
    assert await content(store, kept.sha256, offset=1000, limit=300) == data[1000:1300]


async def test_empty_content_is_kept_too(store: StoredArtifacts) -> None:
    kept = await put(store, b"")

    assert (kept.size_bytes, kept.media_type) == (0, "application/octet-stream")
    assert await store.find("default", kept.sha256) == kept


async def test_the_same_content_again_only_lives_longer(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    first = await put(store, PNG, filename="a.png", retention=timedelta(hours=1))
    now.pass_by(timedelta(minutes=30))
    shorter = await put(store, PNG, filename="b.png", retention=timedelta(minutes=1))
    longer = await put(store, PNG, filename="b.png", retention=timedelta(hours=2))

    assert shorter == first
    assert longer.expires_at - first.expires_at == timedelta(minutes=90)
    assert (longer.filename, longer.created_at) == ("a.png", first.created_at)
    assert len(await contents(objects)) == 1
    assert len(await objects.list(records_key("default"))) == 1


async def test_what_expires_is_unknown_at_once_and_swept_later(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    sweeper = ArtifactSweeper(objects, clock=now)
    kept = await put(store, PNG, retention=timedelta(hours=1))
    stays = await put(store, b"stays", retention=timedelta(hours=9))
    now.pass_by(timedelta(hours=1, seconds=1))

    with pytest.raises(UnknownArtifact):
        await store.find("default", kept.sha256)
    await sweeper.sweep()
    assert [key.split("/")[3] for key in await objects.list(records_key("default"))] == [stays.sha256]
    assert len(await contents(objects)) == 2
    now.pass_by(GRACE)
    await sweeper.sweep()
    assert [key.split("/")[3] for key in await contents(objects)] == [stays.sha256]
    assert await content(store, stays.sha256) == b"stays"


async def test_sweepers_never_take_what_is_uploaded_again(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    sweepers = [ArtifactSweeper(objects, clock=now) for _ in range(2)]
    kept = await put(store, PNG, retention=timedelta(minutes=10))
    for _ in range(8):
        now.pass_by(timedelta(minutes=11))
        await asyncio.gather(
            *(sweeper.sweep() for sweeper in sweepers), put(store, PNG, retention=timedelta(minutes=10))
        )

        assert await content(store, kept.sha256) == PNG


async def test_content_uploaded_again_after_it_expired_is_whole(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    sweeper = ArtifactSweeper(objects, clock=now)
    kept = await put(store, PNG, retention=timedelta(hours=1))
    now.pass_by(timedelta(hours=2))
    await sweeper.sweep()
    await put(store, PNG, retention=timedelta(hours=1))
    now.pass_by(GRACE)
    await sweeper.sweep()

    assert await content(store, kept.sha256) == PNG
    assert len(await contents(objects)) == 1


async def test_content_of_an_upload_that_was_killed_before_its_record_is_swept(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    sha256 = hashlib.sha256(PNG).hexdigest()
    await objects.put(content_key("default", sha256, "0" * 16), PNG)
    sweeper = ArtifactSweeper(objects, clock=now)

    with pytest.raises(UnknownArtifact):
        await store.find("default", sha256)
    for _ in range(2):
        now.pass_by(GRACE)
        await sweeper.sweep()
    assert await contents(objects) == []


async def test_what_a_killed_writer_left_in_a_folder_is_swept(tmp_path: Path, now: Now) -> None:
    objects = ObjectStore.open(f"file://{tmp_path}")
    store = StoredArtifacts(objects, ArtifactPolicy(), clock=now)
    kept = await put(store, PNG)
    staged = tmp_path / content_key("default", kept.sha256) / ("0" * 16 + "#1")
    staged.write_bytes(b"half")

    await ArtifactSweeper(objects, clock=now).sweep()
    assert staged.exists()
    now.pass_by(timedelta(hours=3))
    await ArtifactSweeper(objects, clock=now).sweep()
    assert not staged.exists()
    assert await content(store, kept.sha256) == PNG


async def test_a_deleted_artifact_is_gone(store: StoredArtifacts) -> None:
    kept = await put(store, PNG)
    await store.delete("default", kept.sha256)

    for call in (store.find("default", kept.sha256), store.delete("default", kept.sha256)):
        with pytest.raises(UnknownArtifact) as caught:
            await call
        assert caught.value.metadata == {"artifact": kept.name}


async def test_content_stays_until_its_last_holder_lets_go(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    first, second, hour = "a" * 16, "b" * 16, timedelta(hours=1)
    kept = await put(store, PNG, holder=first, retention=hour)
    await put(store, PNG, holder=second, retention=hour)
    await store.extend("default", kept.sha256, holder=second, retention=2 * hour)
    await store.delete("default", kept.sha256, holder=first)
    assert await content(store, kept.sha256) == PNG
    now.pass_by(1.5 * hour)
    assert (await store.find("default", kept.sha256)).expires_at > now.moment

    await store.delete("default", kept.sha256, holder=second)
    with pytest.raises(UnknownArtifact):
        await store.find("default", kept.sha256)
    sweeper = ArtifactSweeper(objects, clock=now)
    await sweeper.sweep()
    now.pass_by(GRACE)
    await sweeper.sweep()
    assert await contents(objects) == []


async def test_a_holder_takes_away_nothing_that_others_stored(store: StoredArtifacts, now: Now) -> None:
    holder, day = "a" * 16, timedelta(days=1)
    mine = await put(store, PNG, holder=holder, retention=2 * day)
    await put(store, PNG, retention=day)
    await store.delete("default", mine.sha256, holder=holder)
    left = await store.find("default", mine.sha256)
    await put(store, PNG, holder=holder)
    await store.delete("default", mine.sha256)

    assert day <= left.expires_at - now.moment < day + timedelta(seconds=1)
    with pytest.raises(UnknownArtifact):
        await store.find("default", mine.sha256)


async def test_lists_are_newest_first_in_pages_and_filtered(store: StoredArtifacts, now: Now) -> None:
    names = []
    start = now.moment
    for number, (data, kind) in enumerate(
        [(PNG, ""), (b"one", "text/plain"), (b"GIF89a" + bytes(9), ""), (b"two", "text/csv")]
    ):
        now.pass_by(timedelta(seconds=10))
        names.append((await put(store, data + bytes([number]), media_type=kind)).name)

    async def listed(size: int = 0, **wanted: object) -> list[str]:
        found, token = await store.page("default", ArtifactFilter(**wanted), size=size, token="")  # type: ignore[arg-type]
        while token:
            more, token = await store.page("default", ArtifactFilter(**wanted), size=size, token=token)  # type: ignore[arg-type]
            assert len(more) <= size
            found += more
        return [item.name for item in found]

    assert await listed() == await listed(size=1) == names[::-1]
    assert await listed(media_type="image/*") == [names[2], names[0]]
    assert await listed(media_type="text/csv") == [names[3]]
    assert await listed(
        created_after=start + timedelta(seconds=20), created_before=start + timedelta(seconds=40)
    ) == [names[2], names[1]]
    _, token = await store.page("default", ALL, size=1, token="")
    with pytest.raises(InvalidPageToken):
        await store.page("default", ArtifactFilter(media_type="image/*"), size=1, token=token)


async def test_a_tenant_stays_below_its_quota(objects: ObjectStore, now: Now) -> None:
    store = StoredArtifacts(objects, ArtifactPolicy(quota_bytes=1000), clock=now)
    first = await put(store, bytes(600))
    await put(store, bytes(600))
    with pytest.raises(ArtifactQuotaExceeded) as caught:
        await put(store, b"x" * 500)
    await put(store, b"x" * 500, tenant="blue")
    await store.delete("default", first.sha256)

    assert caught.value.metadata == {
        "used_bytes": "600",
        "size_bytes": "500",
        "quota_bytes": "1000",
        "scope": "fleet",
    }
    assert (await put(store, b"x" * 500)).size_bytes == 500


async def test_a_refused_upload_leaves_nothing(objects: ObjectStore, now: Now) -> None:
    store = StoredArtifacts(objects, ArtifactPolicy(max_bytes=1000), clock=now)

    with pytest.raises(ArtifactTooLarge):
        await put(store, bytes(1001))
    with pytest.raises(MediaTypeMismatch):
        await put(store, PNG, media_type="image/jpeg")
    with pytest.raises(RetentionTooLong, match="2678400 s is too long; at most 2592000 s"):
        await put(store, PNG, retention=timedelta(days=31))
    with store.upload() as upload, pytest.raises(ArtifactDigestMismatch):
        await upload.add(PNG)
        await upload.finish(sha256="0" * 64)
    with store.upload() as upload, pytest.raises(ArtifactDigestMismatch):
        await upload.add(PNG)
        await upload.finish(size=5)
    assert await objects.list("default/artifacts") == []


async def test_a_full_disk_is_told(store: StoredArtifacts, objects: ObjectStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(NoUploadSpace):
            await put(store, bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert await objects.list("default/artifacts") == []


async def test_records_say_their_version_and_later_ones_are_refused_and_left_alone(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    kept = await put(store, PNG)
    key = (await objects.list(records_key("default")))[0]
    record = json.loads(await objects.get(key))
    await objects.put(key, json.dumps(record | {"schema_version": 2}).encode())

    assert record["schema_version"] == 1
    with pytest.raises(RecordUnreadable):
        await StoredArtifacts(objects, ArtifactPolicy(), clock=now).find("default", kept.sha256)

    await objects.delete(key)
    await objects.put(f"{records_key('default', kept.sha256)}/v2-of-another-form", b"{}")
    sweeper = ArtifactSweeper(objects, clock=now)
    for _ in range(3):
        now.pass_by(GRACE)
        await sweeper.sweep()
    assert len(await contents(objects)) == 1


async def test_many_uploads_of_one_content_at_once_give_one_artifact(
    store: StoredArtifacts, objects: ObjectStore, now: Now
) -> None:
    kept = await asyncio.gather(*(put(store, PNG, retention=timedelta(hours=n)) for n in range(1, 9)))
    sweeper = ArtifactSweeper(objects, clock=now)
    for _ in range(3):
        now.pass_by(GRACE)
        await sweeper.sweep()

    found = await store.find("default", kept[0].sha256)
    assert found.expires_at == max(item.expires_at for item in kept)
    assert await content(store, kept[0].sha256) == PNG
