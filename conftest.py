"""How the tests of the workspace are shared out among workers, and what passes between them."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Final

import pytest

_WHOLE_STACKS: Final = Path(__file__).parent / "tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, and all those of whole stacks.

    A stack takes seconds to start, and each Envoy a share of the kernel's file watches: one worker has them.
    """
    for item in items:
        shared = item.path.parent == _WHOLE_STACKS
        item.add_marker(pytest.mark.xdist_group("stacks" if shared else str(item.path)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep half characters, which some tests send, out of reports: they pass between processes as UTF-8."""
    report = yield
    report.sections = [(name, _without_halves(text)) for name, text in report.sections]
    return report


def _without_halves(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
