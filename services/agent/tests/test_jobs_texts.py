"""Jobs as text: their records, the filters that find them, and the words that explain them."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from services.agent.tests.job_values import BAD_INPUT, NOW, after, begun, failed, new

from aegis_agent.adapters.jobs.records import from_record, to_record
from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.errors import InvalidFilter, UnreadableJob
from aegis_agent.domain.jobs.explain import explanation, message
from aegis_agent.domain.jobs.filter import parse
from aegis_agent.domain.jobs.job import (
    CarbonAnswer,
    CarbonPolicy,
)


def test_a_record_comes_back_as_it_was() -> None:
    job = new(
        carbon=CarbonPolicy(zone="zones/GB", max_intensity=10.5, max_wait=timedelta(seconds=3)),
        deadline=after(60),
        labels={"a": "ü"},
        priority=Priority.HIGH,
    )
    answer = CarbonAnswer(run_now=True, reason="NO_DATA", asked=NOW, source="uk")
    answered = machine.carbon_answered(job, answer, now=NOW)
    assert answered is not None

    for item in (job, answered, begun(answered), failed(begun(answered)), failed(begun(answered), BAD_INPUT)):
        assert from_record(to_record(item), item.revision) == item


def test_a_record_of_an_earlier_agent_is_read() -> None:
    fields = json.loads(to_record(new()))
    del fields["obstacle"], fields["tool_missed"], fields["waits"], fields["hold"]

    assert from_record(json.dumps(fields), 0) == new()


@pytest.mark.parametrize(
    "record", ["junk", "[]", "{}", to_record(new()).replace('"schema_version":1', '"schema_version":2')]
)
def test_a_record_that_cannot_be_read_is_refused(record: str) -> None:
    with pytest.raises(UnreadableJob):
        from_record(record, 1)


@pytest.mark.parametrize(
    ("text", "admitted"),
    [
        ("", True),
        ("state = WORKING", True),
        ("state != WORKING", False),
        ("phase = QUEUED AND priority = NORMAL", True),
        ('tool = "tools/t"', True),
        ("tool = t AND creator = bob", False),
        ("dead_letter = false", True),
        ("labels.team = red", True),
        ('labels.team = "r\\"ed"', False),
        ("labels.team:* AND labels.size != 3", True),
        ("labels.none:*", False),
        ('create_time > "2026-01-31T11:59:59Z" AND create_time <= "2026-01-31T12:00:00+00:00"', True),
        ('create_time < "2026-01-31T12:00:00"', False),
        ('reason = ""', True),
    ],
)
def test_a_filter_admits_what_it_says(text: str, admitted: bool) -> None:
    assert parse(text).admits(new(labels={"team": "red"})) is admitted


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("stat = FAILED", 1, "no field 'stat'"),
        ("state = failed", 9, "not one of WORKING"),
        ("state = RUNNING", 9, "phase = RUNNING is meant"),
        ("state = FAILED OR tool = x", 16, "joined by AND"),
        ("state = FAILED AND", 16, "FIELD OPERATOR VALUE"),
        ("state < FAILED", 7, "compared with = or !="),
        ("labels.A = x", 1, "no key of a label"),
        ("labels.a+=+x", 1, "a space is %20"),
        ("state+=+FAILED", 1, "a space is %20"),
        ("labels.a:x", 10, "labels.a:* asks"),
        ("create_time = 2026", 13, "compared with <"),
        ('create_time > "soon"', 15, "no RFC 3339 time"),
        ("dead_letter = yes", 15, "true or false"),
        ("(state = FAILED)", 1, "has no meaning"),
        ("= FAILED x", 1, "begins with a field"),
        ("state FAILED = ", 7, "comes one of"),
    ],
)
def test_a_filter_that_cannot_be_read_says_where_and_why(text: str, place: int, part: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse(text)

    assert caught.value.metadata["position"] == str(place)
    assert part in caught.value.message


@given(st.text(max_size=60))
def test_no_filter_text_is_a_fault_of_ours(text: str) -> None:
    with contextlib.suppress(InvalidFilter):
        parse(text)


def test_every_place_has_its_words() -> None:
    running = begun(new(deadline=after(60)))
    told = {
        message(job): explanation(job, ahead=3, now=NOW)
        for job in (
            new(),
            new(not_before=after(5)),
            running,
            failed(running),
            failed(begun(new()), BAD_INPUT),
        )
    }

    assert list(told) == [
        "waits for a free slot",
        "waits for its not_before, until 2026-01-31 12:00:05 UTC at the latest",
        "attempt 1 runs on r1",
        "waits before another attempt, until 2026-01-31 12:00:01 UTC at the latest",
        "no",
    ]
    assert (
        "Of your tenant and priority NORMAL, 3 jobs became ready before it." in told["waits for a free slot"]
    )
    assert "It ends at 2026-01-31 12:01:00 UTC at the latest." in told["attempt 1 runs on r1"]
    assert "Attempt 1 on r1 failed at 2026-01-31 12:00:00 UTC: INVALID_TOOL_INPUT: no." in told["no"]
    assert "Retrying it will not help unless something else has changed." in told["no"]
