"""What `aegis` says about how to go on: advice for an error, and the same call for curl."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aegis_client.cli.failures import show
from aegis_client.cli.state import CliState
from aegis_client.errors import AegisApiError

if TYPE_CHECKING:
    from libs.aegis_client.tests.conftest import Aegis


@pytest.mark.parametrize(
    ("had", "longest", "advice"),
    [("1", "3", "--timeout DURATION"), ("3", "3", None), ("600", "3600", "aegis jobs create")],
)
def test_advice_about_time_is_what_the_tool_allows(
    capsys: pytest.CaptureFixture[str], had: str, longest: str, advice: str | None
) -> None:
    metadata = {"timeout_s": had, "max_timeout_s": longest}
    show(
        AegisApiError("late", code="DEADLINE_EXCEEDED", reason="TOOL_TIMEOUT", metadata=metadata), CliState()
    )

    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  try ")]
    assert [advice in line for line in told] == [True] if advice else not told


def test_the_same_call_for_curl_streams_where_the_command_does(aegis: Aegis) -> None:
    assert aegis("tools", "run", "echo", "--arg", "text=hi", "--stream", "--show-curl") == 0

    assert "/v1/tools/echo:dispatchStream" in aegis.out
    assert " -N " in aegis.out
    assert aegis("tools", "run", "echo", "--arg", "text=hi", "--show-curl") == 0
    assert " -N " not in aegis.out
