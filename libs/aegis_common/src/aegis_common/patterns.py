"""What the patterns of the protos ask for, in words: an expression tells nobody how to mend a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SHOWN_CHARS: Final = 80
_NAME: Final = "lower-case letters, digits, - and _, first a letter, at most 63"
_TOOL: Final = "lower-case letters, digits, _, . and -, first a letter, at most 63"
_VERSION: Final = "lower-case letters, digits, _, . and -, first a letter or digit, at most 63"
_ZONE: Final = "zones/ZONE, letters, digits, - and _, first a letter or digit, at most 63"


@dataclass(frozen=True, slots=True)
class Form:
    """What texts that match a pattern look like.

    Attributes:
        what: What such a text is, with its article.
        use: How to write one.
        example: One that matches.
    """

    what: str
    use: str
    example: str


FORMS: Final = {
    r"^zones/[A-Za-z0-9][A-Za-z0-9_-]{0,62}$": Form("a zone's resource name", _ZONE, "zones/DE"),
    r"^zones/([A-Za-z0-9][A-Za-z0-9_-]{0,62}|-)$": Form(
        "a zone's resource name", f"{_ZONE}, or zones/- for the deployment's default zone", "zones/DE"
    ),
    r"^tools/[a-z][a-z0-9_.-]{0,62}$": Form("a tool's resource name", f"tools/TOOL, {_TOOL}", "tools/echo"),
    r"^toolFiles/[a-z][a-z0-9_]{0,62}$": Form(
        "a tool file's resource name",
        "toolFiles/FILE, lower-case letters, digits and _, first a letter, at most 63",
        "toolFiles/my_tools",
    ),
    r"^jobs/[a-z0-9-]{1,63}$": Form(
        "a job's resource name",
        "jobs/JOB, the name that its creation gave: lower-case letters, digits and -",
        "jobs/0197f3a2-7c1e-7d52-9a41-3f0c5b6de8a7",
    ),
    r"^trainingRuns/[a-z0-9-]{1,63}$": Form(
        "a training run's resource name",
        "trainingRuns/RUN, the name that its creation gave: lower-case letters, digits and -",
        "trainingRuns/0197f3a2-7c1e-7d52-9a41-3f0c5b6de8a7",
    ),
    r"^reservations/[a-z0-9-]{1,63}$": Form(
        "a reservation's resource name",
        "reservations/RESERVATION, the name that its creation gave: lower-case letters, digits and -",
        "reservations/0197f3a2-7c1e-7d52-9a41-3f0c5b6de8a7",
    ),
    r"^models/[a-z][a-z0-9_-]{0,62}$": Form(
        "a model's resource name", f"models/MODEL, {_NAME}", "models/digits"
    ),
    r"^models/[a-z][a-z0-9_-]{0,62}/versions/[a-z0-9][a-z0-9_.-]{0,62}$": Form(
        "a model version's resource name",
        "models/MODEL/versions/VERSION, lower-case letters, digits, - and _, in VERSION also ., at most 63",
        "models/digits/versions/2026-11-03.1",
    ),
    r"^artifacts/[0-9a-f]{64}$": Form(
        "an artifact's resource name",
        "artifacts/SHA256, the 64 lower-case hexadecimal digits that its upload gave",
        f"artifacts/{'9f86d081' * 8}",
    ),
    r"^apps/[a-z][a-z0-9_-]{0,62}$": Form(
        "a training app's resource name", f"apps/APP, {_NAME}", "apps/digits"
    ),
    r"^nodes/[a-z][a-z0-9-]{0,62}$": Form(
        "a node's resource name",
        "nodes/NODE, lower-case letters, digits and -, first a letter, at most 63",
        "nodes/hospital-a",
    ),
    r"^usages/[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$": Form(
        "a usage's resource name",
        "usages/ID, letters, digits, _, ., : and -, first a letter or digit, at most 128",
        "usages/nightly-2026-11-03",
    ),
    r"^publisherKeys/[0-9a-f]{16}$": Form(
        "a publisher key's resource name",
        "publisherKeys/KEY, 16 lower-case hexadecimal digits",
        "publisherKeys/3fd2c05a91b7e684",
    ),
    r"^[0-9a-f]{16}$": Form("a holder's token", "16 lower-case hexadecimal digits", "3fd2c05a91b7e684"),
    r"^[a-z0-9][a-z0-9_.-]{0,62}$": Form("a version's id", _VERSION, "2026-11-03.1"),
    r"^[a-z][a-z0-9-]{0,31}$": Form(
        "an alias", "lower-case letters, digits and -, first a letter, at most 32", "prod"
    ),
    r"^[0-9a-f]{64}$": Form("a SHA-256 digest", "its 64 lower-case hexadecimal digits", "9f86d081" * 8),
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$": Form(
        "a UUID", "lower-case hexadecimal digits in five groups", "0197f3a2-7c1e-4d52-9a41-3f0c5b6de8a7"
    ),
    r"^[a-z][a-z0-9_.-]{0,62}$": Form("a label's or a tool's name", _TOOL, "image_ocr"),
    r"^[a-z][a-z0-9_-]{0,62}$": Form("a training app's name", _NAME, "digits"),
    r"^[a-z][a-z0-9-]{0,62}$": Form(
        "a node's id", "lower-case letters, digits and -, first a letter, at most 63", "hospital-a"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": Form(
        "a worker's name", "letters, digits, ., _ and -, first a letter or digit, at most 63", "gpu-1"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$": Form(
        "a usage's id",
        "letters, digits, _, ., : and -, first a letter or digit, at most 128",
        "nightly-2026-11-03",
    ),
    r"^[a-z][a-z0-9 _.-]{0,31}$": Form(
        "a unit of work", "lower-case letters, digits, spaces, _, . and -, first a letter, at most 32", "page"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*(;.*)?$": Form(
        "a media type", "TYPE/SUBTYPE, with parameters after ; if any", "image/png"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/([A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*|[*])$": Form(
        "a media type", "TYPE/SUBTYPE, or TYPE/* for all of a type", "image/*"
    ),
    r"^[A-Za-z][A-Za-z0-9]{0,62}|[A-Za-z_][A-Za-z0-9_.]{0,126}:[A-Za-z_][A-Za-z0-9_]{0,62}$": Form(
        "a strategy", "a name of Flower's, or MODULE:CLASS of the app's own", "FedAvg"
    ),
}
"""By pattern; one that lets the text be empty, `^(...)?$`, stands here without that."""


def fault(text: str, pattern: str) -> str:
    """Say why *text* does not match *pattern*, one of the protos, and what does.

    For example `'zones/de de' is not a zone's resource name; use zones/ZONE, ... (like zones/DE)`.
    """
    form = form_of(pattern)
    return _said(text, form) if form else f"{_shown(text)} does not match {pattern}"


def name_fault(name: str, collection: str) -> str:
    """Say why *name* is no resource name of *collection*, for example `tools`, and what is one."""
    return _said(name, next(form for pattern, form in FORMS.items() if pattern.startswith(f"^{collection}/")))


def _said(text: str, form: Form) -> str:
    what = f"{_shown(text)} is not {form.what}" if text else "empty"
    return f"{what}; use {form.use} (like {form.example})"


def _shown(text: str) -> str:
    return repr(text[:_SHOWN_CHARS]) + ("..." if len(text) > _SHOWN_CHARS else "")


def form_of(pattern: str) -> Form | None:
    """Return the words of a pattern; None for one that no proto has."""
    return FORMS.get(pattern) or FORMS.get(f"^{pattern.removeprefix('^(').removesuffix(')?$')}$")
