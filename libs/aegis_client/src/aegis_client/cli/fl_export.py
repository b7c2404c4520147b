"""`aegis fl export`: a run's model as a file."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.arguments import RunArgument
from aegis_client.cli.output import print_json, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import AegisClientError, UsageError
from aegis_common.files import write_atomic

if TYPE_CHECKING:
    from aegis_client.client import Client
    from aegis_client.round_forms import Round


class ModelFormat(StrEnum):
    TORCH = "torch"
    ONNX = "onnx"
    NPZ = "npz"


_SUFFIX = {ModelFormat.TORCH: ".pt", ModelFormat.ONNX: ".onnx", ModelFormat.NPZ: ".npz"}


def export(
    ctx: typer.Context,
    name: RunArgument,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Default: RUN and the format's suffix.", show_default=False),
    ] = None,
    kind: Annotated[
        ModelFormat,
        typer.Option(
            "--format",
            help="npz: arrays by name; torch: a state dict (needs torch); onnx: as exported.",
        ),
    ] = ModelFormat.NPZ,
    round_: Annotated[
        str,
        typer.Option("--round", metavar="N|best|last", help="Round whose parameters are wanted."),
    ] = "last",
    metric: Annotated[
        str,
        typer.Option(metavar="NAME", help="What is best: most of this metric, least of a loss."),
    ] = "accuracy",
    output: Output = Format.TEXT,
) -> None:
    """Save the model of a run: the last one, or one after a round that is still kept."""
    if kind is ModelFormat.ONNX and round_ != "last":
        raise UsageError(f"--round {round_} is for npz and torch: an app exports ONNX after its last round")
    with state_of(ctx).client() as client:
        number = _number(client, name, round_, metric)
        content, number = _download(client, name, kind, number)
    file = target or Path(short(name) + _SUFFIX[kind])
    try:
        write_atomic(file, to_torch(content) if kind is ModelFormat.TORCH else content)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    if output is Format.JSON:
        print_json({"file": str(file), "round": number, "sha256": hashlib.sha256(content).hexdigest()})
    else:
        typer.echo(f"{file}  after round {number}")


def _number(client: Client, name: str, text: str, metric: str) -> int:
    if text == "last":
        return 0
    if text == "best":
        return best(list(client.training.rounds(name)), metric)
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--round {text!r} is no number of a round, nor best or last")
    return int(text)


def best(rounds: Sequence[Round], metric: str) -> int:
    """Return the number of the round with the best value of a metric, the first of equal ones.

    Raises:
        UsageError: No round has it.
    """
    found = {report.number: report.metrics[metric] for report in rounds if metric in report.metrics}
    if not found:
        there = sorted({name for report in rounds for name in report.metrics})
        raise UsageError(f"--metric {metric!r} is none of the run's: {', '.join(there) or 'it has none'}")
    # Of a loss, and of an error, the lowest is the best.
    sign = -1 if "loss" in metric or "error" in metric else 1
    return max(found, key=lambda number: (sign * found[number], -number))


def _download(client: Client, name: str, kind: ModelFormat, number: int) -> tuple[bytes, int]:
    form = "onnx" if kind is ModelFormat.ONNX else "npz"
    content = io.BytesIO()
    size = 0
    for piece in client.training.download(name, round=number, format=form):
        content.write(piece.data)
        size, number = piece.total_bytes, piece.round
    if content.tell() != size:
        raise AegisClientError(f"the model has {size} bytes, and {content.tell()} came; try again")
    return content.getvalue(), number


def to_torch(content: bytes) -> bytes:
    """Return parameters as numpy saved them as a state dict of torch.

    Raises:
        UsageError: torch is not installed.
    """
    try:
        # By name: the client itself needs neither.
        np, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    except ImportError as error:
        raise UsageError(
            "--format torch needs torch: pip install torch numpy; or take --format npz"
        ) from error
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        state = {name: torch.from_numpy(np.array(stored[name])) for name in stored.files}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
