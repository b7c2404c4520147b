"""Writes the files of a new Python package for a user, and nothing over what is there."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aegis_common.errors import ConfigurationError

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST: Final = 63


def module_of(name: str) -> str:
    """Return the module of a package's name: `word-count` has `word_count`.

    Raises:
        ConfigurationError: The name cannot be one.
    """
    module = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or keyword.iskeyword(module):
        raise ConfigurationError(
            f"name {name!r} is not 1 to {_LONGEST} of a-z, 0-9, '-' and '_', first a letter, or is a Python "
            "keyword"
        )
    if module == "aegis" or module.startswith("aegis_"):
        raise ConfigurationError(f"name {name!r}: packages of AEGIS itself begin with aegis; choose another")
    return module


def write_package(place: Path, files: Mapping[str, str]) -> list[Path]:
    """Write *files*, texts by their path below *place*, and return where they are.

    Raises:
        ConfigurationError: The folder is there and not empty, or it cannot be written.
    """
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ConfigurationError(
                f"{place} is there already and is not an empty folder; choose another: --dir DIR"
            )
        return [_written(place / path, text) for path, text in files.items()]
    except OSError as error:
        raise ConfigurationError(f"{error.filename or place} cannot be written: {error.strerror}") from error


def _written(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target
