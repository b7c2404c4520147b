"""Results as parts: what a message cannot hold is an error of the tool, never a broken answer."""

from __future__ import annotations

from typing import Any

import pytest

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_agent.adapters.parts import plain, to_protos
from aegis_agent.domain.errors import InvalidToolOutput


def nested(levels: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


@pytest.mark.parametrize(("kind", "levels"), [(list, 42), (dict, 28)])
def test_the_deepest_result_that_is_taken_can_be_read_again(kind: type, levels: int) -> None:
    value = {"x": nested(levels, kind)}
    response = pb.DispatchResponse(result=to_protos(value))
    sent = pb.BatchDispatchResponse(outcomes=[pb.ActionOutcome(response=response)])

    read = pb.BatchDispatchResponse.FromString(sent.SerializeToString())

    assert plain(read.outcomes[0].response.result[0].json) == value


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (nested(43, list), "depth"),
        ({"x": nested(29, dict)}, "depth"),
        (nested(10_000, list), "depth"),
        ([10**400], "maximum"),
        ({"id": 2**53 + 1}, "maximum"),
    ],
    ids=["lists", "objects", "very deep", "a number", "an id"],
)
def test_what_no_message_holds_is_refused(value: Any, rule: str) -> None:
    with pytest.raises(InvalidToolOutput) as caught:
        to_protos(value)

    assert caught.value.metadata["rule"] == rule
