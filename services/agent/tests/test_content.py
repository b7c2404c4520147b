"""Content as typed parameters and results, in process."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from aegis_agent import AgentManager, Artifact, ArtifactRef, Audio, Blob, Image, Part, Video
from aegis_agent.adapters.artifacts.access import TenantArtifacts
from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.adapters.children import frames
from aegis_agent.adapters.schemas import FunctionSchema
from aegis_agent.domain.artifacts import ArtifactPolicy, NoArtifactStore, UnknownArtifact
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidTool, InvalidToolInput, InvalidToolOutput
from aegis_agent.testing import content as tools
from aegis_common.store.objects import ObjectStore

PNG = tools.PNG
JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
SOUND = b"RIFF\x00\x00\x00\x00WAVEfmt " + bytes(60)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Pair:
    before: Image
    after: Image


async def kinds(
    pictures: list[Image], extra: Image | None = None, more: dict[str, Blob] | None = None
) -> list[str]:
    found = [*pictures, *([extra] if extra else []), *(more or {}).values()]
    return [f"{item.media_type} {item.filename}".strip() for item in found]


class Png(Image):
    __slots__ = ()
    wanted = "image/png"


class Song(Artifact):
    __slots__ = ()
    wanted = "audio/*"


async def only_png(picture: Png) -> str:
    return picture.media_type


async def length(song: Song) -> int:
    return song.size_bytes


async def pair(picture: Image) -> Pair:
    return Pair(picture, picture)


async def anything(picture: Image) -> Any:
    return {"same": picture}


async def names(documents: list[Artifact]) -> list[str]:
    return [f"{item.name[:15]} {item.size_bytes}" for item in documents]


async def lies(picture: Image) -> Image:
    return Image(picture.data, "audio/wav")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def manager(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentManager]:
    objects = ObjectStore.open(f"file://{tmp_path_factory.mktemp('objects')}")
    store = StoredArtifacts(objects, ArtifactPolicy())
    async with AgentManager(
        artifacts=lambda caller: TenantArtifacts(store, caller.tenant, max_load_bytes=1000)
    ) as made:
        for function in (kinds, only_png, length, pair, anything, names, lies, tools.shrink):
            made.register_tool(function.__name__, function)
        yield made


async def save(manager: AgentManager, data: bytes, **about: str) -> str:
    artifacts = manager.dispatcher.artifacts
    assert artifacts is not None
    from aegis_agent.domain.call import NOBODY

    return await artifacts(NOBODY).save(data, **about)


async def test_a_child_gets_and_gives_content_with_its_media_type(manager: AgentManager) -> None:
    result = await manager.dispatch("shrink", [Part(PNG, filename="cat.png")])

    assert (result, result.media_type, result.filename) == (PNG[:64], "image/png", "small-cat.png")


async def test_content_may_stand_in_lists_maps_and_unions(manager: AgentManager) -> None:
    png = base64.b64encode(PNG).decode()
    payload = {"pictures": [png, png], "extra": png, "more": {"sound": base64.b64encode(SOUND).decode()}}

    assert await manager.dispatch("kinds", payload) == ["image/png"] * 3 + ["audio/wav"]


async def test_names_of_artifacts_may_stand_wherever_content_may(manager: AgentManager) -> None:
    name = await save(manager, PNG, filename="cat.png")
    payload = {"pictures": [name, base64.b64encode(JPEG).decode()], "extra": name, "more": {"it": name}}

    assert await manager.dispatch("kinds", payload) == [
        "image/png cat.png",
        "image/jpeg",
        "image/png cat.png",
        "image/png cat.png",
    ]
    assert await manager.dispatch("names", {"documents": [name, name]}) == [f"{name[:15]} {len(PNG)}"] * 2
    assert await manager.dispatch("only_png", [Part(ArtifactRef(name))]) == "image/png"


@pytest.mark.parametrize(
    ("payload", "path", "message"),
    [
        ([Part(SOUND, "picture")], "picture", "the content is audio/wav; image/* is wanted"),
        ([Part(b"\x01\x02", "picture")], "picture", "of an unknown kind, and was sent without a media type"),
        (
            [Part(b"\x01\x02", "picture", "application/x-odd")],
            "picture",
            "the content was sent as application/x-odd; image/* is wanted",
        ),
        (
            [Part(b"hi", "picture", "image/png")],
            "picture",
            "the content is text, though it was sent as image/png",
        ),
        ({"picture": base64.b64encode(SOUND).decode()}, "picture", "the content is audio/wav"),
        ({"picture": "no base64!"}, "picture", "the text is not base64"),
        ([Part(SOUND)], "payload[0]", "the content is audio/wav; image/* is wanted"),
    ],
)
async def test_the_wrong_media_type_is_refused_before_the_tool_runs(
    manager: AgentManager, payload: Any, path: str, message: str
) -> None:
    with pytest.raises(InvalidToolInput) as caught:
        await manager.dispatch("pair", payload)

    assert caught.value.metadata["path"] == path
    assert message in caught.value.message


async def test_faults_inside_lists_and_unions_are_named_by_their_place(manager: AgentManager) -> None:
    png, sound = (base64.b64encode(data).decode() for data in (PNG, SOUND))
    with pytest.raises(InvalidToolInput) as inside:
        await manager.dispatch("kinds", {"pictures": [png, sound]})
    with pytest.raises(InvalidToolInput) as optional:
        await manager.dispatch("kinds", {"pictures": [], "extra": sound})

    assert inside.value.metadata["path"] == "pictures[1]"
    assert (optional.value.metadata["path"], optional.value.metadata["rule"]) == ("extra", "contentMediaType")


async def test_a_schema_may_ask_for_one_type_alone(manager: AgentManager) -> None:
    assert await manager.dispatch("only_png", PNG) == "image/png"
    with pytest.raises(InvalidToolInput, match="the content is image/jpeg; image/png is wanted"):
        await manager.dispatch("only_png", JPEG)


async def test_an_artifact_may_have_to_be_of_a_kind_too(manager: AgentManager) -> None:
    picture, song = await save(manager, PNG), await save(manager, SOUND)

    assert await manager.dispatch("length", [Part(ArtifactRef(song))]) == len(SOUND)
    for payload in ({"song": picture}, [Part(ArtifactRef(picture))]):
        with pytest.raises(InvalidToolInput, match="is image/png; audio/\\* is wanted"):
            await manager.dispatch("length", payload)


async def test_what_the_content_shows_counts_more_than_what_was_said(manager: AgentManager) -> None:
    assert await manager.dispatch("kinds", {"pictures": [Content(JPEG, "image/png")]}) == ["image/jpeg"]


async def test_results_keep_content_inside_objects(manager: AgentManager) -> None:
    both = await manager.dispatch("pair", [Part(PNG, filename="a.png")])
    loose = await manager.dispatch("anything", PNG)

    assert {name: (item.media_type, item.filename) for name, item in both.items()} == {
        "before": ("image/png", "a.png"),
        "after": ("image/png", "a.png"),
    }
    assert loose["same"].media_type == "image/png"


async def test_a_media_type_that_a_tool_makes_up_does_not_count(manager: AgentManager) -> None:
    assert (await manager.dispatch("lies", PNG)).media_type == "image/png"


async def test_too_much_out_of_artifacts_is_refused(manager: AgentManager) -> None:
    name = await save(manager, PNG + bytes(600))
    with pytest.raises(InvalidToolInput) as caught:
        await manager.dispatch("kinds", {"pictures": [], "extra": name})

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == ("extra", "maxBytes")


async def test_content_where_an_artifact_is_wanted_is_refused_with_the_way_to_one(
    manager: AgentManager,
) -> None:
    with pytest.raises(InvalidToolInput, match=f"{len(SOUND)} bytes where an artifact .*aegis artifacts put"):
        await manager.dispatch("length", {"song": SOUND})


async def test_an_artifact_of_another_tenant_is_unknown(manager: AgentManager) -> None:
    name = await save(manager, PNG)
    with pytest.raises(UnknownArtifact):
        await manager.dispatch("only_png", {"picture": name}, tenant="blue")


async def test_without_a_store_artifacts_are_refused_by_name() -> None:
    async with AgentManager() as manager:
        manager.register_tool("only_png", only_png)
        with pytest.raises(NoArtifactStore):
            await manager.dispatch("only_png", {"picture": "artifacts/" + "0" * 64})


async def test_schemas_say_what_is_wanted() -> None:
    def every(a: Image, b: Audio, c: Video, d: Blob, e: Artifact) -> Image:
        raise NotImplementedError

    schema = FunctionSchema.of(every)
    binary = {"type": "string", "contentEncoding": "base64"}

    assert schema.input["properties"] == {
        "a": binary | {"contentMediaType": "image/*"},
        "b": binary | {"contentMediaType": "audio/*"},
        "c": binary | {"contentMediaType": "video/*"},
        "d": binary | {"contentMediaType": "*/*"},
        "e": {"type": "string", "format": "aegis-artifact", "pattern": "^artifacts/[0-9a-f]{64}$"},
    }
    assert schema.output == binary | {"contentMediaType": "image/*"}


async def test_content_is_made_of_bytes_of_its_kind_and_never_changes() -> None:
    with pytest.raises(ValueError, match="the content is audio/wav; image/\\* is wanted"):
        Image(SOUND)
    with pytest.raises(ValueError, match="is no media type"):
        Image(PNG, "image/png\r\nx: y")
    with pytest.raises(TypeError):
        Image("text")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Image(PNG).data = b""  # type: ignore[misc]
    assert Blob(b"hi") == Blob(b"hi", "text/plain")
    assert "PNG" not in repr(Image(PNG))


async def test_a_tool_that_returns_the_wrong_content_is_at_fault(manager: AgentManager) -> None:
    async def wrong(text: str) -> Image:
        return text  # type: ignore[return-value]

    manager.register_tool("wrong", wrong)
    with pytest.raises(InvalidToolOutput):
        await manager.dispatch("wrong", {"text": "x"})


async def test_frames_keep_media_type_and_filename() -> None:
    value = {"a": [Content(b"one", "image/png", "ä.png"), b"two"], "b": Content(b"", "", "empty")}
    frame = frames.encode(value)
    text, blobs = frames.size_of(frame[: frames.HEADER.size])
    body = memoryview(frame)[frames.HEADER.size :]
    again = frames.decode(body[:text], body[text : text + blobs])

    assert again == value
    assert [(item.media_type, item.filename) for item in (again["a"][0], again["b"])] == [
        ("image/png", "ä.png"),
        ("", "empty"),
    ]
    assert type(again["a"][1]) is bytes


async def test_ill_types_are_refused_at_registration(manager: AgentManager) -> None:
    async def odd(picture: Image = "nothing") -> str:  # type: ignore[assignment]
        return "x"

    with pytest.raises(InvalidTool):
        manager.register_tool("Odd Name", odd)
