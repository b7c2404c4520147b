"""Every pattern of the protos has words for people, and they are right about it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from buf.validate import validate_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from aegis.agent.v1 import job_service_pb2 as jobs
from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import plan_service_pb2 as plans
from aegis_client.core.form import check_form
from aegis_client.errors import UsageError
from aegis_common.patterns import FORMS, form_of
from aegis_common.rpc.access import descriptor_set_bytes
from aegis_common.rpc.validation import InvalidRequest, request_validator


def _patterns() -> Iterator[tuple[str, str]]:
    """Yield the place and the pattern of every text that has one."""
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes()).file:
        if file.name.startswith("aegis/"):
            for message in file.message_type:
                yield from _of_message(f"{file.package}.{message.name}", message)


def _of_message(place: str, message: descriptor_pb2.DescriptorProto) -> Iterator[tuple[str, str]]:
    for nested in message.nested_type:
        yield from _of_message(f"{place}.{nested.name}", nested)
    for field in message.field:
        rules = field.options.Extensions[validate_pb2.field]
        for each in (rules, rules.repeated.items, rules.map.keys, rules.map.values):
            if each.string.pattern:
                yield f"{place}.{field.name}", each.string.pattern


def test_every_pattern_has_words_whose_example_matches() -> None:
    found = list(_patterns())

    assert found
    assert [(place, pattern) for place, pattern in found if form_of(pattern) is None] == []
    assert [pattern for _, pattern in found if not re.search(pattern, _example(pattern))] == []


def _example(pattern: str) -> str:
    form = form_of(pattern)
    return form.example if form else ""


def test_no_words_are_left_over() -> None:
    used = {id(form_of(pattern)) for _, pattern in _patterns()}

    assert [pattern for pattern, form in FORMS.items() if id(form) not in used] == []


@pytest.mark.parametrize("zone", ["zones/de de", "", "zones/" + "x" * 500])
def test_a_malformed_name_is_answered_in_words_by_server_and_client_alike(zone: str) -> None:
    request = carbon.GetIntensityRequest(zone=zone)

    with pytest.raises(InvalidRequest) as refused:
        request_validator()(request)
    with pytest.raises(UsageError) as unsent:
        check_form(request)

    (words,) = refused.value.violations.values()
    assert unsent.value.message == f"zone: {words}"
    assert words.startswith(
        f"'{zone[:80]}'{'...' if len(zone) > 80 else ''} is not a zone's resource name; use zones/ZONE, "
        if zone
        else "empty; use zones/ZONE, "
    )
    assert words.endswith("(like zones/DE)")


def test_a_malformed_key_of_a_map_is_answered_in_words() -> None:
    request = jobs.CreateJobRequest(job=jobs.Job(tool="tools/echo", labels={"Team 1": "red"}))

    with pytest.raises(InvalidRequest) as refused:
        request_validator()(request)

    assert refused.value.violations["job.labels[Team 1]"].startswith(
        "'Team 1' is not a label's or a tool's name; use "
    )


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (carbon.CheckScheduleRequest(percentile=500), "less than or equal to 100, not 500"),
        (carbon.ResolveZoneRequest(country="Germany"), "at most 3 characters, not 7"),
        (
            plans.GetForecastRequest(zone="zones/-", horizon=Duration(seconds=864000)),
            r"to 7 days \(604800s\), not 10 days \(864000s\)",
        ),
    ],
)
def test_a_value_out_of_range_is_named(request_: Message, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        request_validator()(request_)
