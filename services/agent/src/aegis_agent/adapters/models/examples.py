"""A bundle's examples: run whenever its model is loaded, and compared with what was expected."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aegis_agent.adapters.models.bundled import prepared
from aegis_agent.adapters.models.forms.form import Form, Item
from aegis_agent.domain.call import NOBODY, Arguments, Call
from aegis_agent.domain.errors import InvalidToolInput
from aegis_agent.domain.inference import LoadedModel
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.model_errors import ModelExampleFailed
from aegis_common.errors import AegisError
from aegis_common.store.bundle import Bundle
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import file_of

_SHOWN: Final = 200
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """Where an answer is not the expected one."""

    field: str
    expected: Any
    got: Any


async def _answered(form: Form, model: LoadedModel, arguments: Arguments, *, deadline: float) -> Any:
    """Return what a model answers to arguments that are checked, outside of any queue.

    Raises:
        AegisError: As its form and its run say.
    """
    items = await form.reader.read(
        arguments, lambda given: prepared(model, Call(arguments=given, caller=NOBODY, deadline=deadline))
    )
    runs = [await _run(model, item, deadline) for item in items]
    return form.writer.write(arguments, items, runs)


async def _run(model: LoadedModel, item: Item, deadline: float) -> Any:
    return (await model.run(item.feeds, deadline=deadline, start_by=math.inf)).outputs


async def check_examples(
    version: ModelVersion, bundle: Bundle, form: Form, model: LoadedModel, *, timeout_s: float
) -> None:
    """Run all examples of a bundle.

    Args:
        version: The version that the bundle is.
        bundle: The bundle.
        form: Its form.
        model: Its model.
        timeout_s: Longest time of one example, in seconds.

    Raises:
        ModelExampleFailed: The model did not answer as it should, or not at all.
        InvalidModelBundle: An example's file cannot be read.
    """
    checking = _Checking(version, form, model, timeout_s)
    for index, example in enumerate(bundle.spec.examples):
        given = await asyncio.to_thread(_with_files, example.input, bundle.files)
        wanted = await asyncio.to_thread(_with_files, example.output, bundle.files)
        place = f"examples[{index}]" + (f" ({example.name})" if example.name else "")
        await checking.check(place, given, wanted, example.tolerance)


@dataclass(frozen=True, slots=True)
class _Checking:
    version: ModelVersion
    form: Form
    model: LoadedModel
    timeout_s: float

    async def check(self, place: str, given: Any, wanted: Any, tolerance: float) -> None:
        got = await self._answer(place, given)
        found = await asyncio.to_thread(difference, wanted, got, tolerance)
        if found is not None:
            raise ModelExampleFailed.differs(
                self.version,
                place,
                field=found.field,
                expected=_shown(found.expected),
                got=_shown(found.got),
                tolerance=tolerance,
            )

    async def _answer(self, place: str, given: Any) -> Any:
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                arguments = self.form.checks.input(given)
                return await _answered(self.form, self.model, arguments, deadline=deadline)
        except InvalidToolInput as error:
            field, why = f"input.{error.metadata['path']}".rstrip("."), error.message
        except AegisError as error:
            field, why = "output", error.message
        except TimeoutError:
            field, why = "output", f"there was no answer within {self.timeout_s:g} s"
        raise ModelExampleFailed.of(self.version, place, field=field, why=why)


def difference(expected: Any, got: Any, tolerance: float, field: str = "output") -> Difference | None:
    """Return the first place where *got* is not as expected; more fields and further items do no harm.

    Args:
        expected: JSON value.
        got: JSON value.
        tolerance: Most by which a number may differ.
        field: Where the two stand.
    """
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        pairs = [(f"{field}.{name}", item, got.get(name, _MISSING)) for name, item in expected.items()]
    elif isinstance(expected, list) and isinstance(got, list):
        came = [*got, *[_MISSING] * (len(expected) - len(got))]
        pairs = [(f"{field}[{at}]", item, came[at]) for at, item in enumerate(expected)]
    else:
        return None if _same(expected, got, tolerance) else Difference(field, expected, got)
    found = (difference(item, other, tolerance, place) for place, item, other in pairs)
    return next((item for item in found if item is not None), None)


def _same(expected: Any, got: Any, tolerance: float) -> bool:
    numbers = [isinstance(item, int | float) and not isinstance(item, bool) for item in (expected, got)]
    if all(numbers):
        return bool(abs(expected - got) <= tolerance)
    return type(expected) is type(got) and bool(expected == got)


def _with_files(value: Any, files: Mapping[str, bytes]) -> Any:
    """Put files in their places: JSON as its value, text as text, anything else as bytes."""
    name = file_of(value)
    if name is not None:
        return _content(name, files[name])
    if isinstance(value, dict):
        return {key: _with_files(item, files) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item, files) for item in value]
    return value


def _content(name: str, data: bytes) -> Any:
    suffix = name.rpartition(".")[2].lower()
    if suffix not in ("json", "txt"):
        return data
    try:
        text = data.decode()
        return json.loads(text) if suffix == "json" else text
    except (ValueError, RecursionError) as error:
        raise InvalidModelBundle.at(name, f"is no {suffix.upper()} file: {error}") from error


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
