"""Bundles of the task image-classification: an image in, labels out."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto
from PIL import Image
from services.agent.tests.model_bundles import Bundles, ask

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.adapters.models.preparing.pixels import Pixels
from aegis_agent.domain.errors import InvalidToolInput
from aegis_agent.domain.exceeded import ToolMemoryExceeded
from aegis_agent.domain.tool import Tool
from aegis_common.store.errors import InvalidModelBundle
from bundle_support import BLUE, COLOURS, GREEN, RED, bundle, encoded, large_grey, mean_colour, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bundles(fork_server: ForkServer) -> AsyncIterator[Bundles]:
    async with Bundles(fork_server) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tool(bundles: Bundles) -> Tool:
    return await bundles.load(bundle(COLOURS, mean_colour()))


async def test_an_image_goes_in_and_labels_with_scores_come_out(tool: Tool) -> None:
    answer = await ask(tool, image=picture((51, 102, 255)))

    assert [item["label"] for item in answer["labels"]] == ["blue", "green", "red"]
    assert [item["score"] for item in answer["labels"]] == pytest.approx([1, 0.4, 0.2])


async def test_the_schema_tells_what_goes_in_and_comes_out(tool: Tool) -> None:
    spec = tool.spec
    inputs, (label,) = spec.input_schema, [spec.output_schema["properties"]["labels"]["items"]]

    assert spec.description == "Names the main colour."
    assert (
        inputs["$schema"] == spec.output_schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    )
    assert inputs["required"] == ["image"]
    assert inputs["properties"]["image"]["contentMediaType"] == "image/*"
    assert inputs["properties"]["top_k"]["maximum"] == 3
    assert label["properties"]["label"]["enum"] == ["red", "green", "blue"]
    assert label["required"] == ["label", "score"]


async def test_a_call_says_how_many_labels_it_wants(tool: Tool) -> None:
    assert [item["label"] for item in (await ask(tool, image=picture(GREEN), top_k=1))["labels"]] == ["green"]


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF", "BMP"])
async def test_other_formats_are_read_too(tool: Tool, form: str) -> None:
    answer = await ask(tool, image=encoded(Image.new("RGB", (20, 20), BLUE), form), top_k=1)

    assert answer["labels"][0]["label"] == "blue"


def bomb() -> bytes:
    """Return a PNG of some kilobytes that says it has 900 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00" * 2_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        (bomb(), "maxPixels"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900], "format"),
        (picture(size=(300, 300))[:60], "format"),
        (b"%PDF-1.7 nothing", "contentMediaType"),
        (b"no image at all", "contentMediaType"),
        (b"", "contentMediaType"),
        (b"\x00\x00\x01\x00" + b"\x01" * 60, "format"),
        (picture(size=(1, 9_000)), "maxRatio"),
    ],
    ids=["bomb", "cut JPEG", "cut PNG", "PDF", "text", "nothing", "icon", "needle"],
)
async def test_a_hostile_image_is_refused_and_the_next_one_is_read(
    bundles: Bundles, tool: Tool, image: bytes, rule: str
) -> None:
    if rule == "maxRatio":
        tool = await bundles.load(
            bundle(COLOURS, mean_colour(size="s"), preprocessing={"image": {"size": 128}})
        )
    with pytest.raises(InvalidToolInput) as caught:
        await ask(tool, image=image)
    after = await ask(tool, image=picture(RED), top_k=1)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == ("image", rule)
    assert after["labels"][0]["label"] == "red"


async def test_an_image_that_takes_more_memory_than_allowed_is_that_calls_error(
    fork_server: ForkServer,
) -> None:

    async with Bundles(fork_server, limits=WorkerLimits(memory_bytes=128 << 20)) as small:
        tool = await small.load(bundle(COLOURS, mean_colour()))
        with pytest.raises(ToolMemoryExceeded):
            await ask(tool, image=large_grey())
        after = await ask(tool, image=picture(RED), top_k=1)

    assert after["labels"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("layout", "channels", "kind", "extra"),
    [
        ("NHWC", "RGB", TensorProto.FLOAT, {}),
        ("NHWC", "BGR", TensorProto.FLOAT16, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}),
        ("NCHW", "BGR", TensorProto.DOUBLE, {}),
        ("NCHW", "RGB", TensorProto.UINT8, {"scale": 1.0}),
    ],
)
async def test_layout_channels_and_type_are_the_models(
    bundles: Bundles, layout: str, channels: str, kind: int, extra: dict[str, Any]
) -> None:
    image = {"size": 8, "layout": layout, "channels": channels, **extra}
    made = await bundles.load(
        bundle(COLOURS, mean_colour(layout=layout, kind=kind), preprocessing={"image": image})
    )

    best = (await ask(made, image=picture(RED), top_k=1))["labels"][0]

    assert best["label"] == {"RGB": "red", "BGR": "blue"}[channels]
    assert best["score"] == (255 if kind == TensorProto.UINT8 else 1)


def pixels(**image: Any) -> Any:
    return Pixels(image={"scale": 1.0, "interpolation": "nearest", **image}, datatype="FP32")


def halves(width: int, height: int) -> bytes:
    """Return an image whose left half is 100 and whose right half is 200."""
    array = np.full((height, width), 100, np.uint8)
    array[:, width // 2 :] = 200
    return encoded(Image.fromarray(array))


@pytest.mark.parametrize(
    ("how", "row"),
    [
        ({"resize": "stretch"}, [100, 100, 200, 200]),
        ({"resize": "crop"}, [100, 100, 200, 200]),
        ({"resize": "crop", "shortest_edge": 8}, [100, 100, 200, 200]),
        ({"resize": "pad", "background": 7}, [7, 7, 7, 7]),
    ],
)
async def test_an_image_is_brought_to_its_size(how: dict[str, Any], row: list[int]) -> None:
    tensor = pixels(size=4, channels="L", **how).tensor(halves(40, 20))

    assert tensor.shape == (1, 1, 4, 4)
    assert tensor[0, 0, 0].tolist() == row
    assert tensor[0, 0, 2].tolist() == [100, 100, 200, 200]


async def test_transparent_places_are_the_background_and_exif_turns_the_image() -> None:
    clear = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    turned = Image.open(io.BytesIO(halves(8, 8)))
    exif = Image.Exif()
    exif[0x0112] = 6
    target = io.BytesIO()
    turned.save(target, "PNG", exif=exif)

    assert pixels(size=2, background=9).tensor(clear).ravel().tolist() == [9] * 12
    assert pixels(size=2, channels="L").tensor(target.getvalue())[0, 0].tolist() == [[100, 100], [200, 200]]


async def test_sixteen_bits_are_not_cut_off() -> None:
    deep = encoded(Image.fromarray(np.full((4, 4), 0x8000, np.uint16)))

    assert set(pixels(size=2, channels="L").tensor(deep).ravel().tolist()) == {128}


async def test_a_tensor_larger_than_any_call_may_have_is_refused(bundles: Bundles) -> None:
    large = {"image": {"size": [4096, 2048]}}
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(bundle(COLOURS, mean_colour(size="s"), preprocessing=large))

    assert caught.value.metadata["field"] == "preprocessing.image.size"


@pytest.mark.parametrize(
    ("changes", "model", "field"),
    [
        ({"labels": ["red", "green"]}, {}, "labels"),
        ({"preprocessing": {"image": {"size": 9}}}, {}, "preprocessing.image"),
        ({"preprocessing": {"image": {"size": 8, "layout": "NHWC"}}}, {}, "preprocessing.image"),
        ({}, {"kind": TensorProto.UINT8}, "preprocessing.image.scale"),
        ({}, {"kind": TensorProto.INT32}, "preprocessing.image"),
        ({"input": "picture"}, {}, "input"),
        ({"output": "logits"}, {}, "output"),
    ],
)
async def test_a_spec_that_does_not_fit_its_model_names_the_field(
    bundles: Bundles, changes: dict[str, Any], model: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidModelBundle) as caught:
        await bundles.load(bundle(COLOURS, mean_colour(**model), **changes))

    assert caught.value.metadata == {"file": "model.yaml", "field": field}
