"""The ledger through the gateway, where a day of the replayed grid passes in a minute."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from aegis_client import Usage, UsageEntry
from replica_support import until
from stack_support import Stack, run_aegis, start_stack, stop_stack

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, with a fast replay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AEGIS_CARBON_REPLAY_SPEED", "1440")
        patch.setenv("AEGIS_CARBON_RESTATE_EVERY", "1")
        running = start_stack(tmp_path_factory.mktemp("fast") / "state", nodes=0)
    yield running
    stop_stack(running)


def test_usage_is_recorded_reported_exported_and_made_final(fast: Stack) -> None:
    end = datetime.now(UTC)
    usage = Usage(
        id="first",
        kind="call",
        start_time=end - timedelta(seconds=20),
        end_time=end,
        cpu_seconds=3600,
        units=50,
        tool="ocr",
        run_now_start_time=end - timedelta(seconds=40),
    )
    with fast.client() as client:
        (entry,) = client.carbon.record_usage([usage])
        (again,) = client.carbon.record_usage([usage])
        (row,) = client.carbon.report(by=["tool", "day"])
        assert isinstance(entry, UsageEntry)
        assert entry.name == getattr(again, "name", again)
        assert ("ocr", end.date().isoformat(), 1, 50.0) == (row.tool, row.day, row.entries, row.units)
        assert row.grams is not None
        assert row.grams > 0
        assert row.saved_grams is not None
        assert row.estimated

        until(lambda: client.carbon.usage("first").final, "it is final after 25 of its hours")

    with fast.http(fast.token("viewer")) as http:
        text = http.get("/v1/usages:export", params={"query.by": "DIMENSION_TOOL"})
        assert "text/csv; charset=utf-8" == text.headers["content-type"]
        (line,) = csv.DictReader(io.StringIO(text.text))
        assert ("ocr", "True") == (line["tool"], line["estimated"])
        assert 403 == http.get("/v1/usages:report", params={"query.all_tenants": "true"}).status_code

    where = ("--profile-file", str(fast.state / "profiles.toml"))
    done = run_aegis(*where, "carbon", "report", "--by", "tool,day", "--since", "1d", "-o", "json")
    assert 0 == done.returncode, done.stderr
    assert ["ocr"] == [found["tool"] for found in json.loads(done.stdout)]
    table = run_aegis(*where, "carbon", "report", "--by", "tool")
    assert "estimated" in table.stdout
