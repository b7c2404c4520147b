"""`image_ocr`: reads the text in an image."""

from __future__ import annotations

import functools
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from aegis_agent.adapters.functions import tool
from aegis_agent.adapters.images import opened
from aegis_agent.adapters.schemas import ToolInputError

MAX_WIDE: Final = 100
"""Width to height; the reader would scale a flatter image down to nothing."""
MAX_TALL: Final = 10
"""Height to width; the reader pads flat images, but blows slim ones up: seconds and gigabytes."""
_DETECTOR: Final = "PP-OCRv6_det_small.onnx"
_READER: Final = "PP-OCRv6_rec_small.onnx"


class Point(BaseModel):
    """A place in the image, in pixels from its upper left corner, after EXIF rotation."""

    x: float
    y: float


class OcrLine(BaseModel):
    """One line of text."""

    text: str
    score: float = Field(ge=0, le=1, description="How sure the reader is of this line.")
    box: list[Point] = Field(
        min_length=4, max_length=4, description="Corners, clockwise from the upper left."
    )


class OcrResult(BaseModel):
    """The text of an image."""

    text: str = Field(description="All lines, one below the other; empty when none was found.")
    lines: list[OcrLine] = Field(
        description="The lines in reading order. A line that is not found leaves no trace."
    )
    mean_score: float | None = Field(description="Mean score of the lines; null without lines.")
    width_px: int = Field(ge=1, description="Width of the image after EXIF rotation.")
    height_px: int = Field(ge=1, description="Height of the image after EXIF rotation.")
    model: str = Field(description="What read the text.")


@functools.cache
def _engine() -> Any:
    import rapidocr  # noqa: PLC0415  # 1 s and 90 MB; children only

    folder = Path(rapidocr.__file__).parent / "models"
    for file in (_DETECTOR, _READER):
        if not (folder / file).is_file():  # else the library would fetch it from the network
            raise FileNotFoundError(f"model {file} is missing in the rapidocr package")
    return rapidocr.RapidOCR(
        params={
            "Global.use_cls": False,  # the line classifier turns upright lines over
            "Global.log_level": "error",
            "Det.model_path": str(folder / _DETECTOR),
            "Rec.model_path": str(folder / _READER),
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def warm_up() -> None:
    """Load the models."""
    import cv2  # noqa: PLC0415

    cv2.setNumThreads(1)
    engine = _engine()
    import numpy as np  # noqa: PLC0415

    engine(np.full((64, 64, 3), 255, dtype=np.uint8), use_cls=False)


@tool(
    idempotent=True,
    concurrency=2,
    warm_up=warm_up,
    preload=("numpy", "onnxruntime", "cv2", "PIL.Image", "PIL.ImageOps", "rapidocr"),
    default_timeout=timedelta(seconds=30),
    max_timeout=timedelta(minutes=2),
)
def image_ocr(
    image: Annotated[
        bytes,
        Field(
            description="PNG, JPEG, WebP, GIF (its first frame) or BMP file, at most 40 megapixels. It is "
            "read with its longer side scaled down to 2000 pixels: cut pages of small print into pieces.",
            min_length=1,
        ),
    ],
    min_score: Annotated[float, Field(ge=0, le=1, description="Lines below this score are left out.")] = 0.5,
) -> OcrResult:
    """Reads the printed text in an image: lines with their scores and boxes. Works offline."""
    pixels = _pixels(image)
    found = _engine()(pixels, use_cls=False, text_score=min_score)
    boxes = [] if found.boxes is None else found.boxes
    lines = [
        OcrLine(text=text, score=min(1.0, float(score)), box=[Point(x=float(x), y=float(y)) for x, y in box])
        for text, score, box in zip(found.txts or (), found.scores or (), boxes, strict=True)
    ]
    height, width = pixels.shape[:2]
    return OcrResult(
        text="\n".join(line.text for line in lines),
        lines=lines,
        mean_score=sum(line.score for line in lines) / len(lines) if lines else None,
        width_px=width,
        height_px=height,
        model="PP-OCRv6 small (rapidocr)",
    )


def _pixels(data: bytes) -> Any:
    """Decode behind a gate on format and size; OpenCV's own decoder would take a bomb at face value."""
    import numpy as np  # noqa: PLC0415

    image = opened(data).convert("RGB")
    if image.width > MAX_WIDE * image.height or image.height > MAX_TALL * image.width:
        raise ToolInputError(
            f"the image has {image.width} x {image.height} pixels; it may be {MAX_WIDE} times as wide as "
            f"high, or {MAX_TALL} times as high as wide: cut it into pieces",
            path="image",
            rule="maxRatio",
        )
    return np.asarray(image)[:, :, ::-1]
