from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aegis_common.canonical import canonical_json
from aegis_common.store.aliases import Aliases, AliasRecord
from aegis_common.store.connect import StoreOptions
from aegis_common.store.errors import AliasConflict, InvalidObjectKey, RecordUnreadable
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.objects import s3_server

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


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
def aliases(objects: ObjectStore) -> Aliases:
    return Aliases(objects, clock=lambda: NOW)


async def test_an_alias_points_where_it_was_set_last(aliases: Aliases) -> None:
    await aliases.set("default", "digits", "production", "v1", by="alice")
    moved = await aliases.set("default", "digits", "production", "v2", by="bob")

    assert moved == AliasRecord(
        tenant="default", model="digits", alias="production", number=2, version="v2", by="bob", set_at=NOW
    )
    assert await aliases.get("default", "digits", "production") == moved


async def test_each_move_is_a_record_of_its_own(aliases: Aliases, objects: ObjectStore) -> None:
    for version in ("v1", "v2", "v1"):
        await aliases.set("default", "digits", "production", version, by="alice")

    keys = await objects.list("default/models/digits/aliases/production")

    assert [key.rsplit("/", 1)[-1] for key in keys] == [f"000000000{n}.json" for n in (1, 2, 3)]
    assert json.loads(await objects.get(keys[0]))["version"] == "v1"


async def test_setting_it_to_where_it_points_writes_nothing(aliases: Aliases) -> None:
    first = await aliases.set("default", "digits", "production", "v1", by="alice")

    assert await aliases.set("default", "digits", "production", "v1", by="bob") == first


async def test_an_alias_that_is_not_set_is_none(aliases: Aliases) -> None:
    assert await aliases.get("default", "digits", "production") is None
    assert await aliases.all("default", "digits") == {}


async def test_all_gives_the_newest_record_of_each(aliases: Aliases) -> None:
    for alias, version in (("production", "v1"), ("candidate", "v2"), ("production", "v3")):
        await aliases.set("default", "digits", alias, version, by="alice")
    await aliases.set("acme", "digits", "other", "v9", by="eve")

    found = await aliases.all("default", "digits")

    assert {alias: (record.version, record.number) for alias, record in found.items()} == {
        "candidate": ("v2", 1),
        "production": ("v3", 2),
    }


async def test_at_once_one_choice_wins_and_the_others_are_told(aliases: Aliases) -> None:
    versions = [f"v{n}" for n in range(8)]

    results = await asyncio.gather(
        *(aliases.set("default", "digits", "production", version, by="x") for version in versions),
        return_exceptions=True,
    )

    winners = [result for result in results if isinstance(result, AliasRecord)]
    losers = [result for result in results if isinstance(result, AliasConflict)]
    assert len(winners) + len(losers) == len(versions)
    assert sorted(record.number for record in winners) == list(range(1, len(winners) + 1))
    last = max(winners, key=lambda record: record.number)
    assert await aliases.get("default", "digits", "production") == last


async def test_losing_to_somebody_who_chose_the_same_is_no_conflict(aliases: Aliases) -> None:
    records = await asyncio.gather(
        *(aliases.set("default", "digits", "production", "v1", by=f"x{n}") for n in range(8))
    )

    assert len(set(records)) == 1


async def test_a_lost_race_says_who_won(tmp_path: Path) -> None:
    class Behind(ObjectStore):
        """A store whose listing lags, as seen by the one who loses."""

        async def list(self, prefix: str) -> list[str]:
            return []

    url = f"file://{tmp_path}/objects"
    await Aliases(ObjectStore.open(url)).set("default", "digits", "production", "v1", by="alice")

    with pytest.raises(AliasConflict) as caught:
        await Aliases(Behind.open(url)).set("default", "digits", "production", "v2", by="bob")

    assert caught.value.metadata == {"model": "digits", "alias": "production", "version": "v1", "by": "alice"}


@pytest.mark.parametrize("alias", ["", "Production", "a/b", "..", "a" * 33, "1st", "a.b"])
async def test_an_alias_that_is_no_name_is_refused(aliases: Aliases, alias: str) -> None:
    with pytest.raises(InvalidObjectKey):
        await aliases.set("default", "digits", alias, "v1", by="alice")


@pytest.mark.parametrize(
    "changed", [{"schema_version": 3}, {"model": "cats"}, {"number": 7}, {"version": 1}, {"x": 1}]
)
async def test_a_record_that_does_not_fit_is_refused(
    aliases: Aliases, objects: ObjectStore, changed: dict[str, object]
) -> None:
    await aliases.set("default", "digits", "production", "v1", by="alice")
    key = "default/models/digits/aliases/production/0000000001.json"
    record = json.loads(await objects.get(key))

    await objects.put(key, canonical_json(record | changed))

    with pytest.raises(RecordUnreadable):
        await aliases.get("default", "digits", "production")


async def test_a_removed_alias_points_nowhere_until_it_is_set_again(aliases: Aliases) -> None:
    await aliases.set("default", "digits", "production", "v1", by="alice")
    await aliases.set("default", "digits", "candidate", "v2", by="alice")
    removed = await aliases.set("default", "digits", "production", "", by="bob")
    gone = await aliases.get("default", "digits", "production")
    listed = await aliases.all("default", "digits")
    again = await aliases.set("default", "digits", "production", "v1", by="bob")

    assert (removed.number, removed.version, gone) == (2, "", None)
    assert list(listed) == ["candidate"]
    assert await aliases.get("default", "digits", "production") == again
    assert [(move.number, move.version) for move in await _history(aliases)] == [
        (1, "v1"),
        (2, ""),
        (3, "v1"),
    ]


async def test_only_removals_have_the_newer_schema_version(aliases: Aliases) -> None:
    for version in ("v1", "", "v2"):
        await aliases.set("default", "digits", "production", version, by="alice")

    assert [move.schema_version for move in await _history(aliases)] == [1, 2, 1]


async def test_a_history_is_the_last_moves(aliases: Aliases) -> None:
    for version in ("v1", "v2", "v3"):
        await aliases.set("default", "digits", "production", version, by="alice")
    last = await aliases.history("default", "digits", "production", limit=2)

    assert [move.version for move in last] == ["v2", "v3"]


async def test_a_move_that_has_to_follow_another_is_refused_after_a_newer_one(aliases: Aliases) -> None:
    first = await aliases.set("default", "digits", "production", "v1", by="alice")
    await aliases.set("default", "digits", "production", "v2", by="bob")

    with pytest.raises(AliasConflict, match="just pointed at 'v2' by bob"):
        await aliases.set("default", "digits", "production", "v3", by="alice", after=first.number)
    with pytest.raises(AliasConflict, match="still to go"):
        await aliases.set("default", "digits", "production", "", by="alice", after=first.number)
    assert (await aliases.set("default", "digits", "production", "v3", by="alice", after=2)).number == 3


async def _history(aliases: Aliases) -> list[AliasRecord]:
    return await aliases.history("default", "digits", "production", limit=10)
