"""Requests are checked by the rules of their messages, wherever in them a rule stands."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from aegis.agent.v1 import agent_service_pb2 as agent
from aegis.agent.v1 import part_pb2
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
