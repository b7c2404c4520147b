"""ModelService over real mutual TLS: models are published, moved, cached, and kept to their tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from services.agent.tests.agent_stack import Stack, action, failure, running_stack

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis_common.errors import ErrorKind

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path_factory.mktemp("agent")) as made:
        yield made


async def test_a_model_is_published_served_and_moved(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    models, agent = stack.models(), stack.agent()
    digests = {}
    for version, shift in (("v1", 0), ("v2", 1)):
        manifest = await stack.store.publish(
            "default",
            "colours",
            version,
            make_linear(shift=shift),
            format="onnx",
            provenance={"domain": "rows"},
        )
        digests[version] = manifest.sha256
    rows = action("colours", input=[[1, 0, 0, 0]])

    first = await models.PublishModelVersion(publishing("v1", digests["v1"], "production"))
    before = await agent.Dispatch(rows)
    await models.PublishModelVersion(publishing("v2", digests["v2"]))
    moved = await models.SetAlias(
        model_pb.SetAliasRequest(model="models/colours", alias="production", version="v2")
    )
    after = await agent.Dispatch(rows)
    versions = await models.ListModelVersions(
        model_pb.ListModelVersionsRequest(parent="models/colours", page_size=1)
    )
    older = await models.ListModelVersions(
        model_pb.ListModelVersionsRequest(
            parent="models/colours", page_size=1, page_token=versions.next_page_token
        )
    )
    listed = await models.ListModels(model_pb.ListModelsRequest())
    found = await models.GetModel(model_pb.GetModelRequest(name="models/colours"))
    tool = (await agent.GetTool(pb.GetToolRequest(name="tools/colours"))).tool

    assert (first.model_version.name, list(first.model_version.aliases)) == (
        "models/colours/versions/v1", ["production"],
    )  # fmt: skip
    assert (first.model_version.sha256, first.model_version.format) == (digests["v1"], "onnx")
    assert MessageToDict(before.result[0].json) == {"scores": [[1, 0, 0]], "labels": [0]}
    assert (before.model_version, list(before.warnings)) == (
        "models/colours/versions/v1", ["domain of the model: rows"],
    )  # fmt: skip
    assert MessageToDict(after.result[0].json)["labels"] == [1]
    assert after.model_version == "models/colours/versions/v2"
    assert (dict(moved.model.aliases), moved.model.tool) == ({"production": "v2"}, "tools/colours")
    assert [versions.model_versions[0].name, older.model_versions[0].name] == [
        "models/colours/versions/v2", "models/colours/versions/v1",
    ]  # fmt: skip
    assert found.model == moved.model
    assert moved.model in listed.models
    assert (tool.model, tool.version) == ("models/colours", "v2")


def publishing(
    version: str, sha256: str, *aliases: str, model: str = "colours"
) -> model_pb.PublishModelVersionRequest:
    return model_pb.PublishModelVersionRequest(
        parent=f"models/{model}", version=version, sha256=sha256, aliases=aliases
    )


async def test_answers_of_a_cacheable_model_are_given_again_until_its_alias_moves(
    stack: Stack, make_linear: Callable[..., bytes]
) -> None:
    models, agent = stack.models(), stack.agent()
    for version, shift in (("v1", 0), ("v2", 1)):
        manifest = await stack.store.publish(
            "default",
            "memo",
            version,
            make_linear(shift=shift),
            format="onnx",
            provenance={"cacheable": True},
        )
        aliases = ["production"] if version == "v1" else []
        await models.PublishModelVersion(publishing(version, manifest.sha256, *aliases, model="memo"))
    rows = action("memo", input=[[1, 0, 0, 0]])
    before = [await agent.Dispatch(rows) for _ in range(2)]
    await models.SetAlias(model_pb.SetAliasRequest(model="models/memo", alias="production", version="v2"))
    after = [await agent.Dispatch(rows) for _ in range(2)]

    assert [answer.cached for answer in (*before, *after)] == [False, True, False, True]
    assert [MessageToDict(answer.result[0].json)["labels"] for answer in (*before, *after)] == [
        [0], [0], [1], [1],
    ]  # fmt: skip


async def test_a_model_is_unknown_to_another_tenant(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    manifest = await stack.store.publish(
        "default", "private", "v1", make_linear(), format="onnx", provenance={}
    )
    await stack.models().PublishModelVersion(publishing("v1", manifest.sha256, "production", model="private"))

    blue = stack.agent("blue")
    names = [tool.name for tool in (await blue.ListTools(pb.ListToolsRequest())).tools]
    refused = await failure(blue.Dispatch(action("private", input=[[1, 0, 0, 0]])))

    assert "tools/private" not in names
    assert refused[1] == "UNKNOWN_TOOL"
    assert not (await stack.models("blue").ListModels(model_pb.ListModelsRequest())).models


async def test_publishing_says_what_is_wrong(stack: Stack, make_linear: Callable[..., bytes]) -> None:
    models = stack.models()
    junk = await stack.store.publish("default", "junk", "v1", b"junk", format="onnx", provenance={})
    echo = await stack.store.publish("default", "echo", "v1", make_linear(), format="onnx", provenance={})

    assert (await failure(models.PublishModelVersion(publishing("v1", junk.sha256, model="junk"))))[:2] == (
        ErrorKind.FAILED_PRECONDITION, "MODEL_NOT_LOADABLE",
    )  # fmt: skip
    assert (await failure(models.PublishModelVersion(publishing("v1", "0" * 64, model="junk"))))[
        1
    ] == "MODEL_DIGEST_MISMATCH"
    assert (await failure(models.PublishModelVersion(publishing("v9", "0" * 64, model="junk"))))[:2] == (
        ErrorKind.NOT_FOUND, "MODEL_VERSION_NOT_IN_STORE",
    )  # fmt: skip
    assert (await failure(models.PublishModelVersion(publishing("v1", echo.sha256, model="echo"))))[:2] == (
        ErrorKind.ALREADY_EXISTS, "TOOL_NAME_TAKEN",
    )  # fmt: skip
    assert (await failure(models.GetModel(model_pb.GetModelRequest(name="models/junk"))))[
        1
    ] == "UNKNOWN_MODEL"
