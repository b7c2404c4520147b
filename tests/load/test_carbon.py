"""The published experiments, through the product's planner, where the data lies beside the project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from load.carbon import paper, project, skill
from load.carbon.measured import read_measured

from aegis_carbon.domain.timeseries import IntensitySeries

GERMANY = Path(__file__).parents[3] / "shared/data/carbon/germany_2020.csv"


@pytest.fixture(scope="module")
def germany() -> IntensitySeries:
    if not GERMANY.exists():
        pytest.skip("the German series is not beside the project: shared/data/carbon/germany_2020.csv")
    return read_measured(GERMANY)


def test_the_planner_meets_the_published_figures(germany: IntensitySeries) -> None:
    experiment = paper.Experiment(germany)

    nightly = experiment.nightly(16, 0.05, strict=False)
    whole = experiment.project("semi-weekly", "whole", 0.05, strict=False)
    split = experiment.project("next workday", "split", 0.0, strict=False)

    assert nightly == pytest.approx(paper.NIGHTLY[16], abs=paper.TOLERANCE)
    assert whole == pytest.approx(paper.PROJECT["semi-weekly", "whole", 0.05], abs=paper.TOLERANCE)
    assert split == pytest.approx(paper.PROJECT["next workday", "split", 0.0], abs=paper.TOLERANCE)


def test_the_project_keeps_much_of_the_oracles_saving_with_a_forecast_of_the_past_alone(
    germany: IntensitySeries,
) -> None:
    """The least figures are those of a profile of seven days with one fading difference."""
    experiment = paper.Experiment(germany)
    found = project.Project(germany, experiment).outcomes("next workday")

    oracle = experiment.project("next workday", "split", 0.0, strict=True)
    assert oracle == pytest.approx(found[project.ORACLE, "split"].saved, abs=paper.TOLERANCE)
    assert 3.66 < found[project.ONCE, "whole"].saved < found[project.ORACLE, "whole"].saved
    assert 4.83 < found[project.ONCE, "split"].saved < oracle
    assert 5.65 < found[project.RENEWED, "split"].saved < oracle
    assert 0 == found[project.ORACLE, "split"].worse < found[project.RENEWED, "split"].worse < 25


def test_the_forecast_captures_what_is_required(germany: IntensitySeries) -> None:
    said: list[str] = []
    judged = skill.Judged(germany, range(104 * 48, 370 * 48, 30))

    missed = skill.table(judged, said.append)

    assert [] == [line for line in missed if "window" in line]
    assert any(line.startswith("| oracle (knows the future) |") for line in said)


def test_what_is_captured_is_counted_against_now_and_against_the_oracle() -> None:
    row = np.array([[4.0] * 8 + [2.0] * 8 + [1.0] * 8])

    found = skill.captured(row, np.array([8]), 24)

    assert (50, 4, 0) == (found.saved, found.delay_h, found.worse)
    assert found.share == pytest.approx(100 * 0.5 / 0.75)


@pytest.mark.parametrize("text", ["", "Time,Value\n1,2\n", "Time,Carbon Intensity\n2020-01-01,dirty\n"])
def test_a_file_of_another_form_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)

    with pytest.raises(SystemExit, match="SERIES=path"):
        read_measured(path)


def test_a_gap_is_refused_and_not_filled(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("Time,Carbon Intensity\n2020-01-01 00:00,1\n2020-01-01 01:00,1\n")

    with pytest.raises(SystemExit, match="no value between 2020-01-01 00:00:00 and 2020-01-01 01:00:00"):
        read_measured(path)
