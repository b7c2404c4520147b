"""Every `model.yaml` of docs/models.md is one that the release reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aegis_common.store.model_spec import ModelSpec, read_spec

PAGE = (Path(__file__).parents[3] / "docs/models.md").read_text()
SPECS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", SPECS, ids=[re.findall(r"task: (\S+)", text)[0] for text in SPECS])
def test_an_example_of_the_page_is_read(text: str) -> None:
    assert read_spec(text.encode()).examples


def test_the_page_names_every_field() -> None:
    told = set(re.findall(r"`([a-z_.]+)`", PAGE))

    assert set(ModelSpec.model_fields) <= {name.partition(".")[0] for name in told}
