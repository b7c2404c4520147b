"""`model.yaml`: what a model bundle says about its model."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.yaml_text import YamlFault, read_yaml

SPEC_FILE: Final = "model.yaml"
MODEL_FILE: Final = "model.onnx"
SCHEMA_VERSION: Final = 1
MAX_SPEC_BYTES: Final = 256 << 10
MAX_LABELS: Final = 100_000
FILE_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,3}"

_VARIANTS: Final = frozenset({"float", "int", "bool", "str", "constrained-str"})
_FILE_NAME: Final = re.compile(FILE_NAME)

Task = Literal["image-classification", "text-classification", "embedding", "tabular", "raw"]
Provider = Literal["CPU", "CUDA"]


def _as_text(value: object) -> object:
    """Take whole numbers for texts: labels are often 0, 1, 2."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_pair(value: object) -> object:
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


File = Annotated[str, Field(pattern=rf"^{FILE_NAME}$")]
Label = Annotated[str, BeforeValidator(_as_text), Field(min_length=1, max_length=500)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ImageInput(_Part):
    """How an image becomes a tensor.

    The pixels (0 to 255) become `(pixel * scale - mean) / std`, channel by channel.
    """

    size: Annotated[tuple[Pixels, Pixels], BeforeValidator(_as_pair), Field(strict=False)]
    """Height and width of the tensor in pixels; one number stands for both."""
    resize: Literal["crop", "stretch", "pad"] = "crop"
    """`crop`: keep the ratio, cut out the centre. `stretch`: ignore it. `pad`: keep it, fill the rest."""
    shortest_edge: Pixels | None = None
    """With `crop`: length of the shorter side before the cut, for example 256; else it fits `size`."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    background: Annotated[int, Field(ge=0, le=255)] = 0
    """Grey value that fills transparent places, and the rest with `pad`."""
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: Number = 1 / 255
    mean: Annotated[tuple[Number, ...], Field(strict=False)] = ()
    """One number per channel; 0 if omitted."""
    std: Annotated[tuple[Annotated[Number, Field(gt=0)], ...], Field(strict=False)] = ()
    """One number above 0 per channel; 1 if omitted."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (0, len(self.channels)):
                raise ValueError(
                    f"{name} has {count} numbers; {self.channels} has {len(self.channels)} channels"
                )
        if self.shortest_edge is not None:
            if self.resize != "crop":
                raise ValueError(f"shortest_edge goes with resize crop, not with {self.resize}")
            if self.shortest_edge < min(self.size):
                raise ValueError(f"shortest_edge {self.shortest_edge} is less than size {min(self.size)}")
        return self


class TextTensors(_Part):
    """Names of the model's inputs for text."""

    ids: Name = "input_ids"
    mask: Name = "attention_mask"
    """Left out where the model has no such input."""
    type_ids: Name = "token_type_ids"
    """Left out where the model has no such input."""


class TextInput(_Part):
    """How a text becomes tensors."""

    max_length: Annotated[int, Field(ge=1, le=131_072)] = 512
    """Most tokens of one text, special ones included."""
    truncation: bool = True
    """Cut a longer text off; else it is refused."""
    padding: Literal["none", "max_length"] = "none"
    """`max_length`: always give the model that many tokens; for one with a fixed length."""
    pad_token: str | None = None
    """Token that pads; the one that the tokenizer file names if omitted."""
    pair: bool = False
    """Take two texts, `text` and `text_pair`."""
    inputs: TextTensors = TextTensors()


class Feature(_Part):
    """One named field of a row."""

    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
    type: Literal["number", "integer", "boolean", "category", "text"] = "number"
    description: Annotated[str, Field(max_length=1000)] = ""
    mean: Number = 0.0
    std: Annotated[Number, Field(gt=0)] = 1.0
    """The model is given `(value - mean) / std`; numbers and integers only."""
    minimum: Number | None = None
    maximum: Number | None = None
    categories: Annotated[tuple[Label, ...], Field(strict=False, max_length=10_000)] = ()
    encoding: Literal["index", "one-hot"] = "index"
    """How a category becomes numbers; a model that takes texts is given the text itself."""
    default: float | int | bool | str | None = None
    """Value of a row that has none; without it, the field is required."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.type == "category") != bool(self.categories):
            raise ValueError("a category has categories, and nothing else has")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError("categories has an entry twice")
        numeric = self.type in ("number", "integer")
        if not numeric and (self.mean, self.std, self.minimum, self.maximum) != (0.0, 1.0, None, None):
            raise ValueError(f"mean, std, minimum and maximum are for numbers, not for a {self.type}")
        if self.encoding == "one-hot" and self.type != "category":
            raise ValueError(f"encoding one-hot is for a category, not for a {self.type}")
        if self.default is not None and not self._takes(self.default):
            raise ValueError(f"default {self.default!r} is no {self.type} of this feature")
        return self

    def _takes(self, value: float | bool | str) -> bool:
        if self.type == "boolean":
            return isinstance(value, bool)
        if self.type == "category":
            return value in self.categories
        if self.type == "text":
            return isinstance(value, str)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (self.type == "number" and isinstance(value, float))


class TabularInput(_Part):
    """How a row becomes tensors: one with all features side by side, or one per feature, by its name."""

    features: Annotated[tuple[Feature, ...], Field(strict=False, min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        double = [name for name, count in Counter(item.name for item in self.features).items() if count > 1]
        if double:
            raise ValueError(f"features has {min(double)!r} twice")
        return self


class Preprocessing(_Part):
    """From what a caller sends to tensors; the one part that the task needs."""

    image: ImageInput | None = None
    text: TextInput | None = None
    tabular: TabularInput | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """Which parts are there: of `image`, `text` and `tabular`."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class Postprocessing(_Part):
    """From the model's output to the answer."""

    activation: Literal["softmax", "sigmoid", "none"] = "none"
    """What turns the output into scores; `none` where the model does that itself."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """Most labels of an answer, where a call does not say."""
    pooling: Literal["none", "mean", "cls"] = "none"
    """How the vectors of an embedding's tokens become one; `none` where the model does that itself."""
    normalize: bool = False
    """Give embeddings the length 1."""


class Example(_Part):
    """An input, and what the model has to answer to it; `{file: NAME}` stands for a file of the bundle."""

    name: Annotated[str, Field(max_length=200)] = ""
    input: dict[str, Any]
    output: dict[str, Any]
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    """Most by which a number may differ."""


class ModelSpec(_Part):
    """What `model.yaml` says.

    Attributes:
        name: Name to publish under where the caller gives none; lower-case letters, digits, `_` and `-`.
        version: Id to publish under where the caller gives none.
        input: The model's input tensor; may be left out where there is only one.
        output: Its output tensor that is answered with; may be left out where there is only one.
        labels: Names of the classes in the model's order, or the file that has one a line.
        tokenizer: File `tokenizer.json`, as Hugging Face's `tokenizers` writes it.
        examples: Run whenever the version is loaded.
        providers: What may run the model, best first.
        cacheable: The same input always gives the same answer, so that an answer may be given again.
        domain: For which inputs the model is meant; told with every answer.
        warnings: Told with every answer.
    """

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")] | None = None
    version: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")] | None = None
    description: Annotated[str, Field(max_length=4000)] = ""
    task: Task
    input: Name | None = None
    output: Name | None = None
    preprocessing: Preprocessing = Preprocessing()
    postprocessing: Postprocessing = Postprocessing()
    labels: File | Annotated[tuple[Label, ...], Field(strict=False, min_length=1, max_length=MAX_LABELS)] = ()
    tokenizer: File | None = None
    examples: Annotated[tuple[Example, ...], Field(strict=False, max_length=32)] = ()
    providers: Annotated[tuple[Provider, ...], Field(strict=False, min_length=1)] = ("CPU",)
    cacheable: bool = False
    domain: Annotated[str, Field(max_length=1000)] = ""
    warnings: Annotated[
        tuple[Annotated[str, Field(max_length=1000)], ...], Field(strict=False, max_length=16)
    ] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        given, wanted = self.preprocessing.given, _WANTED[self.task]
        if len(given) != min(len(wanted), 1) or not set(given) <= set(wanted):
            names = " or ".join(f"preprocessing.{name}" for name in wanted) or "no preprocessing"
            raise ValueError(f"the task {self.task} needs {names}, and nothing else there")
        of_text = given == ("text",)
        if of_text != (self.tokenizer is not None):
            raise ValueError("a model of texts needs a tokenizer, and no other has one")
        if self.task in ("image-classification", "text-classification") and not self.labels:
            raise ValueError(f"the task {self.task} needs labels")
        if self.task == "embedding" and self.labels:
            raise ValueError("the task embedding has no labels")
        if self.postprocessing.pooling != "none" and not (self.task == "embedding" and of_text):
            raise ValueError("postprocessing.pooling is for embeddings of texts")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files of the bundle that this names, each once, in ascending order."""
        found = {name for name in (self.tokenizer, self.labels) if isinstance(name, str)}
        for example in self.examples:
            found |= set(_files_in(example.input)) | set(_files_in(example.output))
        return tuple(sorted(found))


_WANTED: Final[dict[str, tuple[str, ...]]] = {
    "image-classification": ("image",),
    "text-classification": ("text",),
    "embedding": ("text", "image"),
    "tabular": ("tabular",),
    "raw": (),
}
"""Which preprocessing each task takes, one of them; none where there is none."""


def read_spec(data: bytes) -> ModelSpec:
    """Return what the bytes of a `model.yaml` say.

    Raises:
        InvalidModelBundle: They are no YAML, or a field is missing, wrong or unknown; it names the field.
    """
    try:
        value = read_yaml(data, max_bytes=MAX_SPEC_BYTES)
    except YamlFault as error:
        raise InvalidModelBundle.at(SPEC_FILE, str(error)) from error
    if not isinstance(value, dict):
        raise InvalidModelBundle.at(
            SPEC_FILE, "a mapping of fields is wanted, beginning with schema_version: 1"
        )
    version = value.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InvalidModelBundle.at(
            SPEC_FILE,
            f"{version!r} is not known; this release reads {SCHEMA_VERSION}",
            field="schema_version",
        )
    try:
        spec = ModelSpec.model_validate(value)
    except ValidationError as error:
        raise _fault(error) from error
    _check_files(spec)
    return spec


def file_of(value: Any) -> str | None:
    """Return the name of the file that an example's value stands for; None for any other value."""
    if isinstance(value, dict) and set(value) == {"file"} and isinstance(value["file"], str):
        return value["file"]
    return None


def _files_in(value: Any) -> list[str]:
    name = file_of(value)
    if name is not None:
        return [name]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for item in items for found in _files_in(item)]


def _check_files(spec: ModelSpec) -> None:
    for index, example in enumerate(spec.examples):
        for field in ("input", "output"):
            for name in _files_in(getattr(example, field)):
                if not _FILE_NAME.fullmatch(name):
                    what = f"{name[:100]!r} is no name of a file of the bundle"
                    raise InvalidModelBundle.at(SPEC_FILE, what, field=f"examples[{index}].{field}")
    names = spec.files
    counts = Counter(name.casefold() for name in names)
    folders = {str(folder) for fold in counts for folder in PurePosixPath(fold).parents}
    for name in names:
        fold = name.casefold()
        if fold in (SPEC_FILE, MODEL_FILE) or counts[fold] > 1:
            raise InvalidModelBundle.at(SPEC_FILE, f"{name!r} names a file that stands for something else")
        if fold in folders:
            raise InvalidModelBundle.at(SPEC_FILE, f"{name!r} is named as a file and as a folder")


def _fault(error: ValidationError) -> InvalidModelBundle:
    found = error.errors(include_url=False)
    item = next((one for one in found if one["type"] == "extra_forbidden"), _closest(found))
    steps = [step for step in item["loc"] if not _is_variant(step)]
    field = _path(steps)
    if item["type"] == "extra_forbidden":
        known = sorted(_fields_at(steps[:-1]))
        near = difflib.get_close_matches(str(steps[-1]), known, n=3)
        hint = f"; near: {', '.join(near)}" if near else f"; there are {', '.join(known)}"
        return InvalidModelBundle.at(SPEC_FILE, f"is not known{hint}", field=field)
    if item["type"] == "missing":
        return InvalidModelBundle.at(SPEC_FILE, "is required and missing", field=field)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "string_type" and isinstance(item["input"], int | float | bool):
        message = f"{item['input']!r} is no text; write it in quotes"
    if item["type"] == "literal_error":
        message = f"{item['input']!r:.80} is not one of {item['ctx']['expected']}"
    return InvalidModelBundle.at(SPEC_FILE, message[:300], field=field)


def _closest(found: list[Any]) -> Any:
    """Return the first fault; of a union, that of the variant that fits furthest."""
    first = found[0]["loc"]
    if not first or not _is_variant(first[-1]):
        return found[0]
    alike = [item for item in found if item["loc"][: len(first) - 1] == first[:-1]]
    return max(alike, key=lambda item: len(item["loc"]))


def _is_variant(step: Any) -> bool:
    """Tell whether a step of a location is pydantic's name for a variant of a union, and no field."""
    return isinstance(step, str) and ("[" in step or step in _VARIANTS)


def _path(steps: list[Any]) -> str:
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def _fields_at(steps: list[Any]) -> set[str]:
    """Return the names of the fields where *steps* lead."""
    model: type[BaseModel] = ModelSpec
    for step in steps:
        if step in model.model_fields:
            model = _part_of(model.model_fields[step].annotation) or model
    return set(model.model_fields)


def _part_of(kind: Any) -> type[BaseModel] | None:
    """Return the part that a field's type is, or holds."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_part_of, get_args(kind))), None)
