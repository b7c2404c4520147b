"""Inside a child: load a model for the first time, and measure how it is best run.

A file that crashes onnxruntime crashes a child. What the measurement finds decides how the agent runs the
model: in its own process or not, in the event loop or not, rows of several requests together or not.
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from typing import Any, Final

import numpy as np

from aegis_agent.adapters.models.memory import resident_bytes
from aegis_agent.adapters.models.session import OnnxSession, Stopper
from aegis_agent.adapters.models.tensors import BYTES, DTYPES
from aegis_agent.domain.inference import TensorSpec

INLINE_S: Final = 150e-6
"""A run that takes less is done in the event loop: handing it to a thread costs about as much."""
BATCH: Final = 8
MIN_GAIN: Final = 1.5
"""Least gain per row, at `BATCH` rows, for which requests are put together."""
MAX_STOP_S: Final = 0.05
"""Longest time that a run may take to stop when it is told to."""
MAX_ROWS: Final = 32

_PIECE_S: Final = 0.025
_MAX_PIECE_ROWS: Final = 256
_SAMPLES: Final = 7
_LONG_S: Final = 0.1
_BUDGET_S: Final = 3.0
_STOPPED_S: Final = 20.0
_OPEN_SIZES: Final = (16, 64, 224, 1)
_SMALL_SIZES: Final = (1, 2, 3, 5)
# NodeProto.op_type is field 4: its tag and length stand before the name
_LOOP: Final = b"\x22\x04Loop"
_SHAPERS: Final = tuple(
    b"\x22" + bytes([len(name)]) + name
    for name in (b"Range", b"Expand", b"Tile", b"ConstantOfShape", b"Resize", b"Pad", b"OneHot", b"Upsample")
)


class Probe:
    """Loads and measures a model.

    Args:
        model: The model file.
        sha256: Digest that it must have.
        threads: Threads of one inference; 1 and up.
        max_input_bytes: Most bytes of one request's inputs.
        providers: What may run it, best first.

    Attributes:
        about: The signature, and what was measured: see `onnx_loader`.
    """

    def __init__(
        self, *, model: bytes, sha256: str, threads: int, max_input_bytes: int, providers: list[str]
    ) -> None:
        before = resident_bytes()
        self._session = OnnxSession(model, sha256=sha256, threads=threads, providers=providers)
        self._inputs = self._session.signature.inputs
        self._max_input_bytes = max_input_bytes
        self._end = time.monotonic() + _BUDGET_S
        self._random = np.random.default_rng(0)
        self._open = 1
        measured = {"reason": why} if (why := self._unpredictable(model)) else self._measured()
        gc.collect()
        signature = self._session.signature
        self.about: Final = {
            "inputs": [[item.name, item.datatype, list(item.shape)] for item in signature.inputs],
            "outputs": [[item.name, item.datatype, list(item.shape)] for item in signature.outputs],
            "provider": self._session.provider,
            "memory_bytes": max(resident_bytes() - before, len(model)),
            **measured,
        }

    def __call__(self, arguments: dict[str, Any]) -> None:
        """A probe is asked nothing more."""

    def _unpredictable(self, model: bytes) -> str:
        """Return why no measurement says how long a run takes, or an empty string.

        A loop runs as often as a value says, and a shape that comes as a value can be of any size. The names
        of operators are looked for in the bytes; finding one too many costs speed only.
        """
        if _LOOP in model:
            return "it has a loop, whose length depends on values"
        shape_like = any(len(item.shape) <= 1 and DTYPES[item.datatype].kind in "iu" for item in self._inputs)
        if shape_like and any(name in model for name in _SHAPERS):
            return "an input can say how large a tensor gets"
        return ""

    def _measured(self) -> dict[str, Any]:
        rows = self._has_rows()
        first = self._first_run()
        if first is None:
            return {"reason": "it runs on none of the inputs that were tried"}
        batch_1 = self._time(1)
        batch_8 = self._time(BATCH) if rows else None
        found: dict[str, Any] = {"batch_1_us": batch_1 * 1e6}
        if batch_8 is not None:
            found |= {"batch_8_us": batch_8 * 1e6, "rows": self._rows_are_independent()}
        fits = batch_1 <= INLINE_S
        largest_inline = BATCH if batch_8 is not None and batch_8 <= INLINE_S else 1
        found["inline_elements"] = self._elements(largest_inline) if fits else 0
        piece_rows, last_s = self._grow(batch_1, rows=rows, independent=bool(found.get("rows")))
        found["piece_rows"] = piece_rows
        found["terminate_ms"] = self._stop_time(piece_rows, last_s) * 1e3
        return found

    def _has_rows(self) -> bool:
        """Whether the first dimension of everything is open."""
        signature = self._session.signature
        return all(item.shape and item.shape[0] is None for item in (*signature.inputs, *signature.outputs))

    def _first_run(self) -> float | None:
        """Find a size for open inner dimensions at which the model runs; return the time of that run."""
        for size in _OPEN_SIZES if any(None in item.shape[1:] for item in self._inputs) else (1,):
            self._open = size
            begin = time.perf_counter()
            try:
                self._session.run(self._feeds(1))
            except MemoryError:
                raise
            except Exception:  # noqa: S112  # the next size may do
                continue
            return time.perf_counter() - begin
        return None

    def _time(self, rows: int) -> float:
        """Return the time of a run, in seconds: the best of several, for others use the processor, too."""
        feeds = self._feeds(rows)
        samples = []
        for _ in range(_SAMPLES):
            begin = time.perf_counter()
            self._session.run(feeds)
            samples.append(time.perf_counter() - begin)
            if samples[-1] > _LONG_S or time.monotonic() > self._end:
                break
        return min(samples)

    def _rows_are_independent(self) -> bool:
        """Whether rows give the same bits alone, among others, and at another place.

        With inner dimensions that are open, this has to hold for small ones, too: few elements may be
        computed in another way.
        """
        chosen, sizes = self._open, [self._open]
        if any(None in item.shape[1:] for item in self._inputs):
            sizes += [size for size in _SMALL_SIZES if size != chosen]
        try:
            return all(self._rows_agree(size, needed=size == chosen) for size in sizes)
        finally:
            self._open = chosen

    def _rows_agree(self, size: int, *, needed: bool) -> bool:
        """Whether rows are independent with open inner dimensions of *size*, if the model runs with it."""
        self._open = size
        feeds = self._feeds(MAX_ROWS)
        try:
            whole = self._session.run(feeds)
        except MemoryError:
            raise
        except Exception:
            if needed:
                raise
            return True
        if any(len(array) != MAX_ROWS for array in whole):
            return False
        for begin, end in ((0, 1), (5, 6), (31, 32), (0, 2), (3, 6), (7, 15), (1, 32)):
            part = self._session.run({name: array[begin:end] for name, array in feeds.items()})
            for small, large in zip(part, whole, strict=True):
                if not _same(small, large[begin:end]):
                    return False
            if time.monotonic() > self._end:
                return False
        return True

    def _grow(self, took: float, *, rows: bool, independent: bool) -> tuple[int, float]:
        """Return the most rows of one run, and how long it takes.

        Where rows are independent, that is a piece of a request, about as long as `_PIECE_S`; else what fits
        into the largest request.
        """
        size = 1
        if not rows:
            return 1, took
        for candidate in (2**exponent for exponent in itertools.count(1)):
            if self._bytes(candidate) > self._max_input_bytes or time.monotonic() > self._end:
                break
            if independent and (took * 2 > _PIECE_S or candidate > _MAX_PIECE_ROWS):
                break
            size, took = candidate, self._time(candidate)
            if not independent and took > 4 * MAX_STOP_S:
                break
        return size, took

    def _stop_time(self, rows: int, took_s: float) -> float:
        """Return how long a run takes to stop, in seconds; 0 where it is over before that matters."""
        if took_s <= MAX_STOP_S:
            return 0.0
        feeds, stopper = self._feeds(rows), Stopper()
        ended: list[float] = []

        def run() -> None:
            try:
                self._session.run(feeds, stopper)
            except Exception:  # noqa: S110  # being stopped is one
                pass
            finally:
                ended.append(time.perf_counter())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        time.sleep(took_s / 3)
        told = time.perf_counter()
        stopper.stop()
        thread.join(_STOPPED_S)
        return max(ended[0] - told, 0.0) if ended else _STOPPED_S

    def _feeds(self, rows: int) -> dict[str, Any]:
        return {item.name: self._array(item, rows) for item in self._inputs}

    def _array(self, spec: TensorSpec, rows: int) -> Any:
        shape = self._shape(spec, rows)
        if spec.datatype == BYTES:
            return np.full(shape, "a", dtype=object)
        dtype = DTYPES[spec.datatype]
        if dtype.kind == "f":
            return self._random.random(shape).astype(dtype)
        return self._random.integers(0, 2, shape).astype(dtype)  # 0 and 1 are in every vocabulary

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        inner = (self._open if size is None else size for size in spec.shape[1:])
        return tuple(itertools.chain((rows if size is None else size for size in spec.shape[:1]), inner))

    def _elements(self, rows: int) -> int:
        return sum(int(np.prod(self._shape(item, rows))) for item in self._inputs)

    def _bytes(self, rows: int) -> int:
        return sum(
            int(np.prod(self._shape(item, rows))) * DTYPES[item.datatype].itemsize for item in self._inputs
        )


def _same(left: Any, right: Any) -> bool:
    if left.dtype == object:
        return left.shape == right.shape and bool((left == right).all())
    return bool(left.shape == right.shape) and left.tobytes() == np.ascontiguousarray(right).tobytes()
