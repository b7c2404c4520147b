"""Inside a child: an image file becomes a tensor."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image

from aegis_agent.adapters.images import MAX_PIXELS, opened
from aegis_agent.adapters.models.memory import resident_bytes
from aegis_agent.adapters.models.tensors import DTYPES
from aegis_agent.adapters.schemas import ToolInputError
from aegis_common.store.model_spec import ImageInput

_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Pixels:
    """Makes tensors of image files.

    Args:
        image: How, an `ImageInput`.
        datatype: Type of the elements, as the inference protocol names it.

    Attributes:
        about: What the set-up added to the child's memory, one image included.
    """

    def __init__(self, *, image: dict[str, Any], datatype: str) -> None:
        before = resident_bytes()
        self._how = ImageInput.model_validate(image)
        self._dtype = DTYPES[datatype]
        self._try()
        self.about: Final = {"memory_bytes": max(resident_bytes() - before, 0)}

    def __call__(self, arguments: dict[str, Any]) -> list[Any]:
        """Return shape and raw elements.

        Raises:
            ToolInputError: The bytes are no image, or one that cannot be brought to the size.
        """
        array = self.tensor(arguments["image"])
        return [list(array.shape), array.tobytes()]

    def tensor(self, data: bytes) -> Any:
        """Return the array of an image file."""
        how = self._how
        pixels = np.asarray(self._fitted(self._flat(opened(data))))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if how.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        return self._numbers(pixels if how.layout == "NHWC" else pixels.transpose(2, 0, 1))[None]

    def _try(self) -> None:
        """Read an image, so that the first call finds everything ready, and what it takes is counted."""
        file = io.BytesIO()
        Image.new("RGB", (640, 480)).save(file, "JPEG")
        self.tensor(file.getvalue())

    def _numbers(self, pixels: Any) -> Any:
        how = self._how
        if self._dtype.kind == "u":
            return np.ascontiguousarray(pixels, dtype=self._dtype)
        shape = (-1, 1, 1) if how.layout == "NCHW" else (1, 1, -1)
        numbers = pixels.astype(np.float32) * np.float32(how.scale)
        if how.mean:
            numbers -= np.array(how.mean, dtype=np.float32).reshape(shape)
        if how.std:
            numbers /= np.array(how.std, dtype=np.float32).reshape(shape)
        return np.ascontiguousarray(numbers, dtype=self._dtype)

    def _flat(self, image: Any) -> Any:
        """Return the image in the channels that are wanted, on its background where it is transparent."""
        mode = "L" if self._how.channels == "L" else "RGB"
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if not image.has_transparency_data:
            return image.convert(mode)
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (self._how.background,) * 3 + (255,))
        return Image.alpha_composite(ground, image).convert(mode)

    def _fitted(self, image: Any) -> Any:
        how, (height, width) = self._how, self._how.size
        if how.resize == "stretch":
            return image.resize((width, height), _FILTERS[how.interpolation])
        if how.resize == "pad":
            ratio = min(width / image.width, height / image.height)
        elif how.shortest_edge is not None:
            ratio = how.shortest_edge / min(image.size)
        else:
            ratio = max(width / image.width, height / image.height)
        return self._centred(self._scaled(image, ratio))

    def _scaled(self, image: Any, ratio: float) -> Any:
        size = max(round(image.width * ratio), 1), max(round(image.height * ratio), 1)
        if size[0] * size[1] > MAX_PIXELS:
            raise ToolInputError(
                f"the image has {image.width} x {image.height} pixels, too slim for the model: scaled to its "
                f"size it has {size[0]} x {size[1]}, and at most {MAX_PIXELS} go; cut it into pieces",
                path="image",
                rule="maxRatio",
            )
        return image.resize(size, _FILTERS[self._how.interpolation])

    def _centred(self, image: Any) -> Any:
        """Cut out the centre of the wanted size; what is missing is filled with the background."""
        height, width = self._how.size
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        if (image.width, image.height) == (width, height):
            return image
        if image.width >= width and image.height >= height:
            return image.crop((left, top, left + width, top + height))
        grey = self._how.background
        ground = Image.new(image.mode, (width, height), grey if image.mode == "L" else (grey,) * 3)
        ground.paste(image, (-left, -top))
        return ground
