"""Requests are checked by the rules of their messages, wherever in them a rule stands."""

from __future__ import annotations

import time

import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from aegis.agent.v1 import agent_service_pb2 as agent
from aegis.agent.v1 import part_pb2
from aegis_agent.adapters import parts
from aegis_agent.adapters.oip import messages as oip
from aegis_common.rpc.validation import InvalidRequest, request_validator

LONG = part_pb2.Part(name="x" * 65)


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (LONG, "name"),
        (agent.CallItem(parts=[part_pb2.Part(), LONG]), "parts[1].name"),
        (agent.DispatchStreamResponse(item=agent.CallItem(parts=[LONG])), "item.parts[0].name"),
    ],
)
def test_a_rule_holds_however_deep_it_stands(message: Message, path: str) -> None:
    check = request_validator()

    for _ in range(2):  # what is found about a message is remembered
        with pytest.raises(InvalidRequest, match="64") as caught:
            check(message)
        assert path in caught.value.violations


def test_a_message_without_any_rule_passes() -> None:
    request_validator()(oip.ModelInferRequest(model_name="x" * 100_000))


def countless(values: int) -> agent.DispatchRequest:
    made = agent.DispatchRequest(
        tool="tools/x", payload=[part_pb2.Part(text="a"), part_pb2.Part(json=Struct())]
    )
    listed = made.payload[1].json.fields["a"].list_value
    for _ in range(values):
        listed.values.add().list_value.SetInParent()
    return made


def test_free_json_costs_the_check_less_than_reading_it_does() -> None:
    """The validator would copy every value to find that no rule looks at it: seconds in the event loop."""
    request, check = countless(100_000), request_validator()
    check(countless(1))
    begun = time.process_time()
    check(request)
    checked = time.process_time()
    parts.from_protos(request.payload)

    assert checked - begun < time.process_time() - checked


def test_what_stands_beside_large_json_is_checked_as_ever() -> None:
    request = countless(5000)
    request.payload[1].name = "x" * 5000
    request.payload.add(text="b", media_type="m" * 5000)
    before = request.SerializeToString()

    with pytest.raises(InvalidRequest) as caught:
        request_validator()(request)

    assert {"payload[1].name", "payload[2].media_type"} <= caught.value.violations.keys()
    assert before == request.SerializeToString()
