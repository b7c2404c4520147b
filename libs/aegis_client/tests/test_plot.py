"""`aegis fl plot`: a picture of a run, and what it says where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops

from aegis.fl.v1 import training_service_pb2 as fl

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis, Deployment

CLEAN, DIRTY, METRIC, GRAMS = (76, 159, 88), (201, 128, 58), (31, 95, 168), (91, 58, 140)


def rounds(count: int, *, clean_until: int, grams: bool = True) -> fl.ListRoundsResponse:
    answer = fl.ListRoundsResponse()
    for number in range(1, count + 1):
        clean = number <= clean_until
        report = answer.rounds.add(number=number, metrics={"accuracy": number / count, "loss": 1 / number})
        report.metrics["broken"] = float("nan")
        report.gate.CopyFrom(
            fl.GateDecision(clean=clean, intensity_g_per_kwh=100 if clean else 300, threshold_g_per_kwh=200)
        )
        if grams:
            report.energy.CopyFrom(fl.RoundEnergy(kwh=0.001, grams=0.1 * number, estimated=True))
    return answer


def pixels(file: Path, colour: tuple[int, int, int]) -> int:
    """Return how many pixels have this colour, or nearly: edges are smooth."""
    with Image.open(file) as image:
        assert image.size == (1000, 640)
        difference = ImageChops.difference(image, Image.new("RGB", image.size, colour))
    largest = difference.convert("RGB").split()
    worst = ImageChops.lighter(ImageChops.lighter(largest[0], largest[1]), largest[2])
    return sum(worst.histogram()[:24])


def test_clean_and_dirty_rounds_have_the_colours_and_heights_of_their_grid(
    aegis: Aegis, deployment: Deployment, tmp_path: Path
) -> None:
    deployment.training.rounds = {"": rounds(10, clean_until=5)}

    assert aegis("fl", "plot", "r1", tmp_path / "run.png") == 0

    clean, dirty, metric, grams = (
        pixels(tmp_path / "run.png", colour) for colour in (CLEAN, DIRTY, METRIC, GRAMS)
    )
    assert aegis.out.strip().endswith("run.png")
    # as many rounds of each, three times as high
    assert 2.4 < dirty / clean < 3.6
    assert metric > 300
    assert grams > 300


def test_what_is_not_known_is_not_drawn(aegis: Aegis, deployment: Deployment, tmp_path: Path) -> None:
    deployment.training.rounds = {"": rounds(1, clean_until=1, grams=False)}

    assert aegis("fl", "plot", "r1", tmp_path / "run.png", "--metric", "loss") == 0

    assert pixels(tmp_path / "run.png", DIRTY) < 200  # its legend alone


@pytest.mark.parametrize(
    ("count", "options", "fault"),
    [
        (0, [], "the run has no rounds yet"),
        (1, ["--metric", "f1"], "--metric 'f1' is none of the run's: accuracy, loss"),
        (1, ["--metric", "broken"], "--metric 'broken' is none of the run's: accuracy, loss"),
        (1, ["--metric", "loss"] * 3, "--metric is given 3 times; a picture has room for 2"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    aegis: Aegis, deployment: Deployment, count: int, options: list[str], fault: str
) -> None:
    deployment.training.rounds = {"": rounds(count, clean_until=1)}

    assert aegis("fl", "plot", "r1", *options) == 2
    assert fault in aegis.err
