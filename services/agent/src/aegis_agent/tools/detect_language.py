"""`detect_language`: which language a text is written in."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from aegis_agent.adapters.functions import tool
from aegis_agent.adapters.schemas import ToolInputError

_CANDIDATES: Final = 3
_MIN_PROBABILITY: Final = 1e-6


class Candidate(BaseModel):
    """A language and how likely it is."""

    language: str = Field(description="ISO 639-1 code, for example `en`.")
    probability: float = Field(ge=0, le=1, description="Share of the likelihood over all 97 languages.")


class DetectedLanguage(BaseModel):
    """The most likely language, and the next ones."""

    language: str = Field(description="ISO 639-1 code of the most likely language, for example `en`.")
    probability: float = Field(ge=0, le=1, description="How likely it is; short texts give low values.")
    candidates: list[Candidate] = Field(description="Up to three languages, most likely first.")
    model: str = Field(description="What made the decision.")


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415  # 0.7 s; in children only

    identifier: Any = LanguageIdentifier
    return identifier.from_model_file(MODEL_FILE, norm_probs=True)


def warm_up() -> None:
    """Load the model."""
    _identifier()


@tool(
    idempotent=True,
    warm_up=warm_up,
    preload=("numpy", "py3langid.langid"),
    max_timeout=timedelta(seconds=60),
)
def detect_language(
    text: Annotated[
        str, Field(description="The text; some words at least.", min_length=1, max_length=100_000)
    ],
) -> DetectedLanguage:
    """Tells the language of a text, out of 97, with its probability."""
    if not any(letter.isalpha() for letter in text):
        raise ToolInputError("it has no letters, so it has no language", path="text", rule="letters")
    ranked = [(str(code), min(1.0, float(share))) for code, share in _identifier().rank(text)[:_CANDIDATES]]
    likely = [(code, share) for code, share in ranked if share >= _MIN_PROBABILITY] or ranked[:1]
    candidates = [Candidate(language=code, probability=share) for code, share in likely]
    best = candidates[0]
    return DetectedLanguage(
        language=best.language, probability=best.probability, candidates=candidates, model="py3langid"
    )
