"""Texts as the input of a bundle's model: each on its own tokens, never padded for another's sake."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.forms.form import Item, Preparation, Prepare
from aegis_agent.adapters.models.tensors import DTYPES
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.inference import Signature, TensorSpec
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import SPEC_FILE, TextInput

MAX_TEXTS: Final = 64
MAX_CHARACTERS: Final = 1 << 20
_TARGET: Final = "aegis_agent.adapters.models.preparing.tokens:Tokens"
_FRAME_BYTES: Final = 64 << 10
_TENSORS: Final = ("ids", "mask", "type_ids")
_TEXT: Final[Mapping[str, Any]] = {"type": "string", "maxLength": MAX_CHARACTERS}


def can_read_texts() -> bool:
    """Return whether the package that tokenizes is installed."""
    return importlib.util.find_spec("tokenizers") is not None


class _Texts:
    """What both readers share: the child that tokenizes, and the model's inputs.

    Args:
        signature: The model's inputs.
        text: How a text becomes them.
        tokenizer: Name of the bundle's `tokenizer.json`.
        most: Most texts of one call.

    Raises:
        InvalidModelBundle: Inputs and specification do not fit each other.
    """

    def __init__(self, signature: Signature, text: TextInput, tokenizer: str, *, most: int) -> None:
        self._targets = _targets(signature, text)
        self.preparation: Final = Preparation(
            target=_TARGET,
            options={"text": text.model_dump(mode="json")},
            files={"tokenizer": tokenizer},
            output_bytes=most * len(_TENSORS) * 8 * text.max_length + _FRAME_BYTES,
        )

    async def _items(
        self, texts: Sequence[Sequence[str]], paths: Sequence[str], prepare: Prepare
    ) -> list[Item]:
        found = await prepare({"texts": texts, "paths": paths})
        return [self._item(dict(zip(_TENSORS, columns, strict=True))) for columns in found]

    def _item(self, columns: Mapping[str, bytes]) -> Item:
        arrays = {name: np.frombuffer(data, dtype=np.int64) for name, data in columns.items()}
        feeds = {
            spec.name: arrays[name].astype(DTYPES[spec.datatype])[None]
            for name, spec in self._targets.items()
        }
        return Item(feeds, arrays["mask"])


class TextReader(_Texts):
    """Reads `text`, and `text_pair` where the model takes two; a `Reader`."""

    def __init__(self, signature: Signature, text: TextInput, tokenizer: str) -> None:
        super().__init__(signature, text, tokenizer, most=1)
        self.required: Final = ["text", "text_pair"] if text.pair else ["text"]
        self.properties: Final[Mapping[str, Any]] = dict.fromkeys(self.required, _TEXT)

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:
        return await self._items([[arguments[name] for name in self.required]], ["text"], prepare)


class TextsReader(_Texts):
    """Reads `texts`; a `Reader`."""

    def __init__(self, signature: Signature, text: TextInput, tokenizer: str) -> None:
        super().__init__(signature, text, tokenizer, most=MAX_TEXTS)
        texts = {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TEXTS}
        self.properties: Final[Mapping[str, Any]] = {"texts": texts}
        self.required: Final[Sequence[str]] = ["texts"]

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:
        texts = [[text] for text in arguments["texts"]]
        return await self._items(texts, [f"texts[{index}]" for index in range(len(texts))], prepare)


def _targets(signature: Signature, text: TextInput) -> dict[str, TensorSpec]:
    """Return which of the model's inputs takes what."""
    inputs = {spec.name: spec for spec in signature.inputs}
    names = {name: getattr(text.inputs, name) for name in _TENSORS}
    if names["ids"] not in inputs:
        raise _fault("inputs.ids", f"the model has no input {names['ids']!r}; it takes {', '.join(inputs)}")
    found = {name: inputs[names[name]] for name in _TENSORS if names[name] in inputs}
    extra = inputs.keys() - {spec.name for spec in found.values()}
    if extra or len({spec.name for spec in found.values()}) != len(found):
        told = f"nothing fills input {min(extra)!r}" if extra else "two of them have one name"
        raise _fault("inputs", told)
    for spec in found.values():
        _check(spec, text)
    return found


def _check(spec: TensorSpec, text: TextInput) -> None:
    told = " x ".join("n" if size is None else str(size) for size in spec.shape)
    if DTYPES[spec.datatype].kind not in "iu" or len(spec.shape) != 2 or spec.shape[0] not in (None, 1):
        raise _fault(
            "inputs", f"input {spec.name!r} takes {spec.datatype} {told}; rows of whole numbers are wanted"
        )
    length = spec.shape[1]
    if length is None:
        return
    if text.padding != "max_length":
        raise _fault(
            "padding", f"input {spec.name!r} always takes {length} tokens: write padding: max_length"
        )
    if length != text.max_length:
        raise _fault("max_length", f"input {spec.name!r} takes {length} tokens, not {text.max_length}")


def _fault(field: str, what: str) -> InvalidModelBundle:
    return InvalidModelBundle.at(SPEC_FILE, what, field=f"preprocessing.text.{field}")
