"""Bundles of images and of texts, pushed and called by the command line through a real gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aegis_common.store.bundle import unpack
from bundle_support import (
    BLUE,
    COLOURS,
    EMBEDDING,
    RED,
    bundle,
    mean_colour,
    picture,
    tokenizer,
    word_model,
)
from stack_support import Stack, run_aegis


@pytest.mark.long
def test_images_and_texts_go_in_and_labels_and_vectors_come_out(stack: Stack, tmp_path: Path) -> None:
    def aegis(*arguments: str | Path, code: int = 0) -> str:
        before = ("--profile-file", str(stack.state / "profiles.toml"), "--profile", "people")
        done = run_aegis(*before, *map(str, arguments))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(*arguments: str | Path) -> Any:
        return json.loads(aegis("tools", "run", *arguments, "-o", "json"))["parts"][0]["json"]

    def example(label: str) -> list[dict[str, Any]]:
        return [{"input": {"image": {"file": "a.png"}}, "output": {"labels": [{"label": label}]}}]

    files = {"a.png": picture(RED)}
    unpack(bundle(COLOURS, mean_colour(), files, examples=example("red")), tmp_path / "shades")
    unpack(bundle(COLOURS, mean_colour(), files, examples=example("blue")), tmp_path / "liar")
    vectors = bundle(EMBEDDING, word_model(vector=True), {"tokenizer.json": tokenizer()})
    unpack(vectors, tmp_path / "meanings")
    (tmp_path / "blue.png").write_bytes(picture(BLUE))
    aegis("models", "keys", "enroll", "--description", "of bundles")

    aegis("models", "push", tmp_path / "shades", "--name", "shades", "--version", "one", "--alias", "prod")
    refused = aegis("models", "push", tmp_path / "liar", "--name", "shades", "--alias", "prod", code=1)
    aegis(
        "models", "push", tmp_path / "meanings", "--name", "meanings", "--version", "one", "--alias", "prod"
    )

    assert "MODEL_EXAMPLE_FAILED" in refused
    assert "output.labels[0].label: expected 'blue', got 'red'" in refused
    assert run("shades", "--file", f"image={tmp_path / 'blue.png'}", "--arg", "top_k=1") == {
        "labels": [{"label": "blue", "score": 1}]
    }
    assert run("meanings", "--arg", 'texts=["bad good", "day"]') == {"vectors": [[0.25, 0.25], [0, 0]]}
    assert "image/*" in aegis("tools", "describe", "shades")
    (exported,) = json.loads(aegis("tools", "export", "--format", "json-schema", "meanings"))
    assert "texts" in json.dumps(exported)
    for name in ("shades", "meanings"):
        aegis("models", "rm", name, "one", "--alias", "prod")
