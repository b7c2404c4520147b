"""Inside a child: texts become tokens."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from tokenizers import Encoding, Tokenizer

from aegis_agent.adapters.models.memory import resident_bytes
from aegis_agent.adapters.schemas import ToolInputError
from aegis_common.store.model_spec import TextInput

_PADS: Final = ("[PAD]", "<pad>")


class Tokens:
    """Makes tokens of texts.

    Args:
        tokenizer: A `tokenizer.json`.
        text: How, a `TextInput`.

    Attributes:
        about: What the set-up added to the child's memory.

    Raises:
        ValueError: The tokenizer has no such token that pads, or no room beside its special tokens.
        Exception: The file is no tokenizer.
    """

    def __init__(self, *, tokenizer: bytes, text: dict[str, Any]) -> None:
        before = resident_bytes()
        self._how = TextInput.model_validate(text)
        self._tokenizer = Tokenizer.from_buffer(tokenizer)
        self._set_up()
        self._tokenizer.encode("a", "a" if self._how.pair else None)  # what is built late is built now
        held = max(resident_bytes() - before, len(tokenizer))
        self.about: Final = {"memory_bytes": held + len(tokenizer)}

    def __call__(self, arguments: dict[str, Any]) -> list[Any]:
        """Return ids, mask and type ids of each text, as raw int64.

        Raises:
            ToolInputError: A text is too long, or has no tokens.
        """
        return [
            self._tensors(self._encode(texts, path))
            for texts, path in zip(arguments["texts"], arguments["paths"], strict=True)
        ]

    def _set_up(self) -> None:
        """Let nothing of what the file says of lengths count but its way to pad."""
        how, tokenizer = self._how, self._tokenizer
        special = tokenizer.num_special_tokens_to_add(how.pair)
        if how.max_length <= special:
            raise ValueError(f"max_length {how.max_length} has no room beside {special} special tokens")
        padding = tokenizer.padding or {}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if how.truncation:
            tokenizer.enable_truncation(how.max_length)
        if how.padding == "max_length":
            token = how.pad_token or padding.get("pad_token") or self._usual_pad()
            number = tokenizer.token_to_id(token) if token else None
            if number is None:
                raise ValueError(
                    f"{token!r} is no token of the tokenizer" if token else "no token pads; name pad_token"
                )
            tokenizer.enable_padding(
                direction=padding.get("direction", "right"),
                pad_id=number,
                pad_type_id=padding.get("pad_type_id", 0),
                pad_token=token,
                length=how.max_length,
            )

    def _usual_pad(self) -> str:
        return next((name for name in _PADS if self._tokenizer.token_to_id(name) is not None), "")

    def _encode(self, texts: list[str], path: str) -> Encoding:
        first, *second = texts
        try:
            encoding = self._tokenizer.encode(first, second[0] if second else None)
        except TypeError as error:  # of a text, which it is, with half a character in it
            raise ToolInputError("the text is no UTF-8", path=path, rule="utf-8") from error
        count = len(encoding.ids)
        if count > self._how.max_length:
            raise ToolInputError(
                f"the text has {count} tokens; the model takes {self._how.max_length}: cut it into pieces",
                path=path,
                rule="maxTokens",
            )
        if not any(encoding.attention_mask):
            raise ToolInputError("the text has no tokens", path=path, rule="minTokens")
        return encoding

    @staticmethod
    def _tensors(encoding: Encoding) -> list[bytes]:
        columns = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        return [np.array(column, dtype=np.int64).tobytes() for column in columns]
