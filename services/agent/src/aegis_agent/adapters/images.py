"""Image files of users, decoded behind a gate on format and size. For child processes only."""

from __future__ import annotations

import io
import warnings
from typing import Any, Final

from aegis_agent.adapters.schemas import ToolInputError

MAX_PIXELS: Final = 40_000_000
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def opened(data: bytes) -> Any:
    """Return the image that *data* holds, of GIF the first frame, turned as its EXIF data says.

    Raises:
        ToolInputError: It is none of `FORMATS`, damaged, or has more than `MAX_PIXELS`; the parameter is
            `image`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415  # children only

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                return ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ToolInputError(
            f"the image has more than {MAX_PIXELS} pixels; scale it down", path="image", rule="maxPixels"
        ) from error
    except UnidentifiedImageError as error:
        raise ToolInputError(
            f"the bytes are no {', '.join(FORMATS)} image", path="image", rule="format"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ToolInputError(f"the image is damaged: {error}", path="image", rule="format") from error
