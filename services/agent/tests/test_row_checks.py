"""The quick look at rows says yes to no row that the schema refuses, and to all that callers usually send."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aegis_agent.adapters.models.forms.row_checks import RowLook
from aegis_agent.adapters.models.forms.rows import MAX_ROWS, RowReader
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import InvalidToolInput
from aegis_agent.domain.inference import Signature, TensorSpec
from aegis_agent.domain.tool import ToolSpec
from aegis_common.store.model_spec import Feature, TabularInput

FEATURES = (
    Feature(name="n", minimum=-1.5, maximum=3),
    Feature(name="i", type="integer", minimum=0, default=0),
    Feature(name="b", type="boolean"),
    Feature(name="c", type="category", categories=("x", "1")),
)
READER = RowReader(
    "t",
    Signature((TensorSpec("rows", "FP32", (None, 4)),), ()),
    TabularInput(features=FEATURES),
    only="",
    together=True,
)
SCHEMA = {"type": "object", "properties": READER.properties, "required": ["rows"]}
CHECKS = SchemaChecks(ToolSpec(name="t", description="", version="1", input_schema=SCHEMA, output_schema={}))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.floats(-3, 5),
    st.sampled_from(["x", "1", "y", ""]),
    st.just([]),
    st.sampled_from([float("inf"), 10**400, b"x"]),
)
ANY_ROW = st.one_of(VALUES, st.dictionaries(st.sampled_from("nibcz"), VALUES))
SOUND_ROW = st.fixed_dictionaries(
    {"n": st.floats(-1.5, 3) | st.integers(-1, 3), "b": st.booleans(), "c": st.sampled_from(["x", "1"])},
    optional={"i": st.integers(0, 9)},
)


def accepted(rows: Any) -> bool:
    try:
        CHECKS.input({"rows": rows})
    except InvalidToolInput:
        return False
    return True


@given(rows=st.one_of(ANY_ROW, st.lists(st.one_of(ANY_ROW, SOUND_ROW), max_size=4)))
def test_what_it_says_yes_to_fits_the_schema(rows: Any) -> None:
    assert accepted(rows) or not READER.look.fit(rows)


@given(rows=st.lists(SOUND_ROW, min_size=1, max_size=4))
def test_it_says_yes_to_sound_rows(rows: Any) -> None:
    assert READER.look.fit(rows)
    assert accepted(rows)


def test_it_counts_the_rows() -> None:
    row = {"n": 1, "b": True, "c": "x"}
    look = RowLook(FEATURES, most=MAX_ROWS)

    assert [look.fit([row] * count) for count in (0, 1, MAX_ROWS, MAX_ROWS + 1)] == [False, True, True, False]
