from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_common.store.connect import StoreOptions, file_credentials
from aegis_common.store.errors import InvalidObjectKey, ObjectNotFound, ObjectTooLarge, StoreUnavailable
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.testing.objects import s3_server

KEYS = "[default]\naws_access_key_id = id\naws_secret_access_key = {secret}\n"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreOptions]:
    with s3_server(tmp_path_factory.mktemp("s3")) as options:
        yield options


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return ObjectStore.open(f"file://{tmp_path}/objects")
    return ObjectStore.open(f"s3://models/{tmp_path.name}", options=request.getfixturevalue("s3"))


async def test_what_is_put_is_got(store: ObjectStore) -> None:
    await store.put("default/a/b.json", b"one")
    await store.put("default/a/b.json", b"two")

    assert await store.get("default/a/b.json") == b"two"


async def test_put_if_absent_leaves_what_is_there(store: ObjectStore) -> None:
    assert await store.put_if_absent("default/a", b"one") is True
    assert await store.put_if_absent("default/a", b"two") is False
    assert await store.get("default/a") == b"one"


async def test_of_many_writers_at_once_exactly_one_wins(store: ObjectStore) -> None:
    won = await asyncio.gather(*(store.put_if_absent("default/race", str(n).encode()) for n in range(16)))

    assert won.count(True) == 1
    assert await store.get("default/race") == str(won.index(True)).encode()


async def test_an_object_larger_than_one_upload_part_is_written_whole(store: ObjectStore) -> None:
    data = bytes(range(256)) * (12 << 12)

    assert await store.put_if_absent("default/large", data) is True
    await store.put("default/larger", data + b"x")

    assert await store.get("default/large") == data
    assert await store.get("default/larger") == data + b"x"


async def test_a_missing_object_is_not_found(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound) as caught:
        await store.get("default/none")

    assert caught.value.metadata == {"key": "default/none"}


async def test_an_object_over_the_limit_is_not_read(store: ObjectStore) -> None:
    await store.put("default/big", b"12345")

    with pytest.raises(ObjectTooLarge) as caught:
        await store.get("default/big", max_bytes=4)

    assert caught.value.metadata == {"key": "default/big", "size_bytes": "5", "max_bytes": "4"}
    assert await store.get("default/big", max_bytes=5) == b"12345"


async def test_a_listing_is_sorted_and_stops_at_the_folder(store: ObjectStore) -> None:
    for key in ("default/l/b", "default/l/a/c", "default/lx", "other/l/a"):
        await store.put(key, b"")

    assert await store.list("default/l") == ["default/l/a/c", "default/l/b"]
    assert await store.list("default/none") == []


async def test_folders_are_those_directly_below(store: ObjectStore) -> None:
    for key in ("default/models/digits/x", "default/models/cats/y/z", "default/models/file"):
        await store.put(key, b"")

    assert await store.folders("default/models") == ["cats", "digits"]
    assert await store.folders("default/none") == []


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    await store.put("default/a", b"")

    await store.delete("default/a")
    await store.delete("default/a")

    with pytest.raises(ObjectNotFound):
        await store.get("default/a")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "default",
        "default/",
        "default/../other/a",
        "default/a//b",
        "default/.hidden",
        "Default/a",
        "default/a b",
        "default/\u00e4",
        "default/a\n",
        "default/" + "a" * 129,
        "default/" + "/".join(["a" * 100] * 6),
    ],
)
async def test_a_key_that_could_leave_the_tenant_is_refused(tmp_path: Path, key: str) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")

    for call in (
        store.get(key),
        store.put(key, b""),
        store.put_if_absent(key, b""),
        store.list(key),
        store.delete(key),
    ):
        with pytest.raises(InvalidObjectKey):
            await call


def test_a_key_is_made_of_whole_segments() -> None:
    assert object_key("default", "models", "a.onnx") == "default/models/a.onnx"
    with pytest.raises(InvalidObjectKey):
        object_key("default/models", "a")
    with pytest.raises(InvalidObjectKey):
        object_key("default", "a/../../other")


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}/objects")
    (tmp_path / "objects" / "default").write_text("a file where a folder should be")

    with pytest.raises(StoreUnavailable) as caught:
        await store.put("default/a", b"")

    assert str(tmp_path) not in caught.value.message


async def test_a_missing_bucket_is_unavailable_not_empty(s3: StoreOptions) -> None:
    store = ObjectStore.open("s3://nothing-here", options=s3)

    for call in (store.get("default/a"), store.put("default/a", b""), store.list("default/a")):
        with pytest.raises(StoreUnavailable):
            await call


async def test_a_server_that_does_not_answer_is_unavailable(s3: StoreOptions) -> None:
    gone = StoreOptions(
        endpoint="http://127.0.0.1:9",
        credentials_file=s3.credentials_file,
        retries=0,
        timeout=timedelta(seconds=2),
    )

    with pytest.raises(StoreUnavailable) as caught:
        await ObjectStore.open("s3://models", options=gone).get("default/a")

    assert caught.value.retry_after == timedelta(seconds=1)


@pytest.mark.parametrize(
    "url", ["models", "ftp://x/y", "file://host/x", "file:x", "s3://", "s3://b/p?region=x", "s3://id:key@b/p"]
)
def test_a_wrong_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        ObjectStore.open(url)


def test_plain_http_is_for_loopback_only() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ObjectStore.open("s3://models", options=StoreOptions(endpoint="http://store.example:9000"))

    assert caught.value.metadata == {"endpoint": "http://store.example:9000"}


@pytest.mark.parametrize("text", ["", "nonsense", "[default]\naws_access_key_id = id\n", "[other]\n"])
def test_a_wrong_credentials_file_stops_at_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        ObjectStore.open("s3://models", options=StoreOptions(credentials_file=path))

    assert caught.value.metadata["path"] == str(path)


def test_credentials_are_read_again_when_they_change(tmp_path: Path) -> None:
    path, now = tmp_path / "credentials", datetime(2026, 1, 1, tzinfo=UTC)
    path.write_text(KEYS.format(secret="old%1"))
    provider = file_credentials(path, "default", clock=lambda: now)
    first = provider()

    path.write_text(KEYS.format(secret="new") + "aws_session_token = t\n")

    assert first == {
        "access_key_id": "id",
        "secret_access_key": "old%1",
        "token": None,
        "expires_at": now + timedelta(minutes=1),
    }
    assert (provider()["secret_access_key"], provider()["token"]) == ("new", "t")


@pytest.mark.parametrize("size", [0, 1, 5 << 20, (11 << 20) + 3])
async def test_a_file_is_written_whole(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    with (tmp_path / "file").open("w+b") as file:
        file.write(data[:size])
        await store.put_file("default/file", file)

    assert await store.get("default/file") == data[:size]


async def test_an_object_is_read_piece_by_piece_from_any_place(store: ObjectStore) -> None:
    data = bytes(range(256)) * (8 << 10)
    await store.put("default/large", data)

    async def read(**part: int) -> list[bytes]:
        return [piece async for piece in store.stream("default/large", **part)]

    assert b"".join(await read()) == data
    assert max(len(piece) for piece in await read()) < len(data)
    assert b"".join(await read(offset=len(data) - 5)) == data[-5:]
    assert b"".join(await read(offset=300, limit=7)) == data[300:307]
    with pytest.raises(ObjectNotFound):
        [piece async for piece in store.stream("default/none")]


async def test_entries_have_sizes_and_times_and_tenants_are_listed(store: ObjectStore) -> None:
    begin = datetime.now(UTC) - timedelta(seconds=2)
    await store.put("blue/b", b"1")
    await store.put("blue/a/x", b"12345")
    await store.put("default/c", b"")

    found = await store.entries("blue/a")
    assert [(item.key, item.size_bytes) for item in found] == [("blue/a/x", 5)]
    assert begin <= found[0].modified_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert await store.tenants() == ["blue", "default"]


async def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    store = ObjectStore.open(f"file://{tmp_path}")
    await store.put("blue/a/kept", b"1")
    half, empty = tmp_path / "blue" / "a" / "kept#1", tmp_path / "blue" / "none"
    half.write_bytes(b"half")
    empty.mkdir()
    now = datetime.now(UTC)

    assert await store.remove_staged("blue/a", before=now - timedelta(hours=1)) == 0
    assert await store.remove_staged("blue/a", before=now + timedelta(hours=1)) == 1
    assert (half.exists(), empty.exists(), (tmp_path / "blue" / "a" / "kept").exists()) == (False, True, True)
