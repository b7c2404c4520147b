"""`CarbonScheduler`: in a script, in a running loop, from many threads, and what it costs to import."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from aegis_carbon import CarbonScheduler, OnMissing
from aegis_carbon.domain.errors import UnknownZone
from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.schedule import Reason
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.testing.uk_api import Answer, UkApi, national
from aegis_common.clock import utc_now
from aegis_common.errors import ConfigurationError, InvalidArgument

DEMO_RANGE = (40, 340)


@pytest.fixture
def scheduler() -> Iterator[CarbonScheduler]:
    with CarbonScheduler(default_threshold=150) as scheduler:
        yield scheduler


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "carbon-scheduler"]


def test_it_decides_out_of_the_box_and_says_on_what(scheduler: CarbonScheduler) -> None:
    decision = scheduler.should_schedule_now()

    assert decision.value is not None
    assert DEMO_RANGE[0] <= decision.value <= DEMO_RANGE[1]
    assert (decision.value <= 150) == bool(decision)
    assert ("demo-day", "replay", Quality.SYNTHETIC) == (decision.zone, decision.source, decision.quality)
    assert decision.age is not None
    assert decision.age < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("zone", "threshold", "runs"),
    [("demo-clean", None, True), ("demo-dirty", None, False), ("demo-dirty", 5000, True)],
)
def test_zone_and_threshold_can_be_given_for_one_question(
    scheduler: CarbonScheduler, zone: str, threshold: float | None, runs: bool
) -> None:
    assert runs == bool(scheduler.should_schedule_now(zone=zone, threshold=threshold))


def test_zone_and_on_missing_can_be_given_for_all(uk_api: UkApi) -> None:
    uk_api.default = Answer(None, 400)
    settings = IntensitySettings(api_url=uk_api.url)
    with CarbonScheduler(zone="GB-wales", on_missing="wait", settings=settings) as scheduler:
        waits = scheduler.should_schedule_now()
        runs = scheduler.should_schedule_now(on_missing=OnMissing.RUN_NOW)

    assert (False, Reason.NO_DATA, "GB-wales") == (bool(waits), waits.reason, waits.zone)
    assert (True, Reason.NO_DATA, None) == (bool(runs), runs.reason, runs.value)


def test_without_a_threshold_of_its_own_the_settings_decide() -> None:
    settings = IntensitySettings(intensity_threshold=10, zone_thresholds={"demo-dirty": 900})
    with CarbonScheduler(settings=settings) as scheduler:
        assert not scheduler.should_schedule_now(zone="demo-clean")
        assert scheduler.should_schedule_now(zone="demo-dirty")


def test_the_environment_is_read(uk_api: UkApi, monkeypatch: pytest.MonkeyPatch) -> None:
    now = utc_now()
    uk_api.default = national(now - timedelta(minutes=15), forecast=120)
    monkeypatch.setenv("CARBON_API_URL", uk_api.url)
    monkeypatch.setenv("CARBON_INTENSITY_THRESHOLD", "100")
    with CarbonScheduler() as scheduler:
        decision = scheduler.should_schedule_now()

    assert ("GB", "uk", 100, False) == (
        decision.zone,
        decision.source,
        decision.threshold_g_per_kwh,
        bool(decision),
    )


async def test_it_works_inside_a_running_loop(scheduler: CarbonScheduler) -> None:
    direct = scheduler.should_schedule_now(zone="demo-clean")
    aside = await asyncio.to_thread(scheduler.should_schedule_now, zone="demo-clean")

    assert direct
    assert aside


def test_many_threads_share_one_request(uk_api: UkApi) -> None:
    uk_api.default = Answer(national(utc_now() - timedelta(minutes=15), forecast=120).body, delay_s=0.2)
    settings = IntensitySettings(api_url=uk_api.url)
    with CarbonScheduler(settings=settings) as scheduler, ThreadPoolExecutor(8) as pool:
        found = [pool.submit(scheduler.should_schedule_now, zone="GB") for _ in range(16)]
        values = {future.result().value for future in found}

    assert {120.0} == values
    assert 1 == len(uk_api.requests)


def test_a_provider_that_hangs_does_not_hang_the_caller(uk_api: UkApi) -> None:
    uk_api.default = Answer(None, delay_s=20)
    with CarbonScheduler(settings=IntensitySettings(api_url=uk_api.url)) as scheduler:
        began = time.monotonic()
        decision = scheduler.should_schedule_now(zone="GB", wait=timedelta(seconds=0.1))

    assert decision
    assert Reason.NO_DATA == decision.reason
    assert time.monotonic() - began < 10


def test_an_unknown_zone_is_an_error_with_near_matches(scheduler: CarbonScheduler) -> None:
    with pytest.raises(UnknownZone, match="demo-day"):
        scheduler.should_schedule_now(zone="demo_day")


@pytest.mark.parametrize("threshold", [0, -1, 5001, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidArgument, match="threshold"):
        CarbonScheduler(default_threshold=threshold)


def test_an_unknown_on_missing_is_refused(scheduler: CarbonScheduler) -> None:
    with pytest.raises(InvalidArgument, match="run_now or wait"):
        scheduler.should_schedule_now(on_missing="sometimes")


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_CARBON_CACHE_TTL", "soon")
    with pytest.raises(ConfigurationError, match="cache_ttl"):
        CarbonScheduler()


def test_a_setting_that_does_not_fit_is_told_to_each_caller() -> None:
    with CarbonScheduler(settings=IntensitySettings(default_zone="mars")) as scheduler:
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="'mars'"):
                scheduler.should_schedule_now()


def test_after_closing_its_thread_is_gone_and_it_says_that_it_is_closed() -> None:
    scheduler = CarbonScheduler()
    scheduler.should_schedule_now()
    assert threads()
    scheduler.close()
    scheduler.close()

    assert not threads()
    with pytest.raises(ConfigurationError, match="closed"):
        scheduler.should_schedule_now()


def test_an_abandoned_one_closes_itself() -> None:
    CarbonScheduler().should_schedule_now()
    gc.collect()

    assert not threads()


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_a_script_that_forgets_to_close_ends_by_itself() -> None:
    code = "import aegis_carbon as c; print(bool(c.CarbonScheduler(zone='demo-clean').should_schedule_now()))"

    assert "True\n" == run_python(code)


def test_it_works_in_a_forked_child() -> None:
    code = """
import os
from aegis_carbon import CarbonScheduler
scheduler = CarbonScheduler(zone="demo-clean")
scheduler.should_schedule_now()
child = os.fork()
if child == 0:
    print("child", bool(scheduler.should_schedule_now()), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", bool(scheduler.should_schedule_now()))
"""

    assert "child True\nparent True\n" == run_python(code)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'httpx', 'redis', 'pydantic', 'grpc', 'tenacity', 'opentelemetry', 'asyncio'}"

    assert "[]\n" == run_python(f"import sys, aegis_carbon; print(sorted({heavy} & set(sys.modules)))")


def test_the_scheduler_needs_no_grpc() -> None:
    code = "import sys; from aegis_carbon import CarbonScheduler; CarbonScheduler().should_schedule_now()"

    assert "False\n" == run_python(f"{code}; print('grpc' in sys.modules)")
