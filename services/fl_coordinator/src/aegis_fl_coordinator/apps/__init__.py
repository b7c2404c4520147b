"""Training apps that come with the coordinator, one Flower app folder each."""

from __future__ import annotations

from pathlib import Path
from typing import Final

BUNDLED: Final = Path(__file__).parent
"""Folder of the bundled apps; each is approved by the digest that its own files give."""
