"""An image as the input of a bundle's model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aegis_agent.adapters.images import FORMATS, MAX_PIXELS
from aegis_agent.adapters.models.forms.form import Item, Preparation, Prepare
from aegis_agent.adapters.models.tensors import DTYPES, decode
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.inference import TensorSpec
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import SPEC_FILE, ImageInput

_TARGET: Final = "aegis_agent.adapters.models.preparing.pixels:Pixels"
_FRAME_BYTES: Final = 64 << 10
_MAX_BYTES: Final = 64 << 20
"""Most bytes of one image's tensor."""
_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "string",
    "contentEncoding": "base64",
    "contentMediaType": "image/*",
    "description": f"{', '.join(FORMATS)} file (of GIF the first frame), at most {MAX_PIXELS // 1_000_000} "
    "megapixels.",
}


class ImageReader:
    """Reads `image`; a child decodes it. A `Reader`.

    Args:
        tensor: The model's input.
        image: How the image becomes that.

    Raises:
        InvalidModelBundle: The two do not fit each other.
    """

    def __init__(self, tensor: TensorSpec, image: ImageInput) -> None:
        _check(tensor, image)
        self._tensor = tensor
        size = math.prod(shape_of(image)) * DTYPES[tensor.datatype].itemsize
        if size > _MAX_BYTES:
            raise _fault(".size", f"makes tensors of {size} bytes; at most {_MAX_BYTES} are served")
        self.properties: Final[Mapping[str, Any]] = {"image": _SCHEMA}
        self.required: Final[Sequence[str]] = ["image"]
        self.preparation: Final = Preparation(
            target=_TARGET,
            options={"image": image.model_dump(mode="json"), "datatype": tensor.datatype},
            output_bytes=size + _FRAME_BYTES,
        )

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:
        shape, data = await prepare({"image": arguments["image"]})
        return [Item({self._tensor.name: decode(self._tensor, shape, data)})]


def shape_of(image: ImageInput) -> tuple[int, int, int, int]:
    """Return the shape of the tensor."""
    height, width = image.size
    channels = len(image.channels)
    return (1, channels, height, width) if image.layout == "NCHW" else (1, height, width, channels)


def _check(tensor: TensorSpec, image: ImageInput) -> None:
    shape = shape_of(image)
    if len(tensor.shape) != len(shape) or any(
        size not in (None, wanted) for size, wanted in zip(tensor.shape, shape, strict=True)
    ):
        told = " x ".join("n" if size is None else str(size) for size in tensor.shape)
        made = " x ".join(map(str, shape))
        raise _fault("", f"makes tensors of {made} ({image.layout}); input {tensor.name!r} takes {told}")
    kind = DTYPES[tensor.datatype].kind
    if kind not in "fu":
        raise _fault("", f"makes numbers; input {tensor.name!r} takes {tensor.datatype}")
    if kind == "u" and (image.scale, set(image.mean) - {0.0}, set(image.std) - {1.0}) != (1.0, set(), set()):
        raise _fault(
            ".scale", f"input {tensor.name!r} takes {tensor.datatype}, pixels as they are: write scale: 1.0"
        )


def _fault(field: str, what: str) -> InvalidModelBundle:
    return InvalidModelBundle.at(SPEC_FILE, what, field=f"preprocessing.image{field}")
