"""The way from a ServerApp to its coordinator, which may be restarted meanwhile."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict

from aegis.fl.v1 import round_service_pb2 as pb
from aegis.fl.v1 import round_service_pb2_grpc as pb_grpc
from aegis.fl.v1 import training_service_pb2 as training_pb
from aegis_fl_coordinator.runfile import ROUNDS_FILE, TOKEN_FILE, CoordinatorAddress, RunFile

T = TypeVar("T")
TOKEN_KEY: Final = "aegis-run-token"  # noqa: S105  # a metadata key
_log: Final = logging.getLogger(__name__)
_TIMEOUT_S: Final = 30.0
_RETRY_S: Final = 1.0
_PATIENCE_S: Final = 3600.0
_GONE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class RunStopped(Exception):
    """The coordinator wants the run to end, or knows it no more."""


class Link(Protocol):
    """What the mixin needs of the coordinator."""

    def await_round(self, number: int, count_nodes: Callable[[], int]) -> None:
        """Return when round *number* may start.

        Raises:
            RunStopped: The run is to end.
        """
        ...

    def report_round(self, report: training_pb.Round) -> None:
        """Report a finished round.

        Raises:
            RunStopped: The run is to end.
        """
        ...


class CoordinatorLink:
    """Calls RoundService; each attempt reads its address, token and certificate anew.

    So a coordinator may be restarted, even elsewhere, and certificates may be rotated.
    """

    def __init__(self, folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._sleep = sleep

    def await_round(self, number: int, count_nodes: Callable[[], int]) -> None:
        while True:
            answer = self._call(
                lambda stub, run: stub.AwaitRound(
                    pb.AwaitRoundRequest(training_run=run.name, round=number, nodes_online=count_nodes()),
                    timeout=_TIMEOUT_S,
                    metadata=self._metadata(run),
                )
            )
            if answer.proceed:
                return
            self._sleep(min(max(answer.retry_after.ToTimedelta().total_seconds(), 0.2), 5.0))

    def report_round(self, report: training_pb.Round) -> None:
        self._call(
            lambda stub, run: stub.ReportRound(
                pb.ReportRoundRequest(training_run=run.name, round=report),
                timeout=_TIMEOUT_S,
                metadata=self._metadata(run),
            )
        )

    def _call(self, call: Callable[[pb_grpc.RoundServiceStub, RunFile], T]) -> T:
        patience = time.monotonic() + _PATIENCE_S
        while True:
            run = RunFile.read(self._folder)
            if run.coordinator is None:
                raise RunStopped(f"{run.name} has no coordinator")
            try:
                with _channel(run.coordinator) as channel:
                    return call(pb_grpc.RoundServiceStub(channel), run)
            except grpc.RpcError as error:
                code = error.code()
                if code not in _GONE or time.monotonic() > patience:
                    raise RunStopped(f"{run.name}: {code.name}: {error.details()}") from error
                _log.warning("coordinator does not answer (%s); trying again", code.name)
                self._sleep(_RETRY_S)

    def _metadata(self, run: RunFile) -> tuple[tuple[str, str], ...]:
        try:
            token = (self._folder / TOKEN_FILE).read_text("ascii")
        except FileNotFoundError as error:
            raise RunStopped(f"{run.name} is paused or has ended: its token was taken away") from error
        return (TOKEN_KEY, token), ("traceparent", run.traceparent)


def _channel(address: CoordinatorAddress) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        Path(address.bundle).read_bytes(), Path(address.key).read_bytes(), Path(address.cert).read_bytes()
    )
    options = [("grpc.ssl_target_name_override", address.server_name)]
    return grpc.secure_channel(address.target, credentials, options)


class FileLink:
    """For a run without a coordinator: every round may start, and reports go to a file, one JSON a line."""

    def __init__(self, folder: Path, min_nodes: int, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._file = folder / ROUNDS_FILE
        self._min_nodes = min_nodes
        self._sleep = sleep

    def await_round(self, number: int, count_nodes: Callable[[], int]) -> None:  # noqa: ARG002
        while count_nodes() < self._min_nodes:
            self._sleep(1.0)

    def report_round(self, report: training_pb.Round) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(MessageToDict(report, preserving_proto_field_name=True)) + "\n")


def link_for(folder: Path, run: RunFile) -> Link:
    """Return the link of a run."""
    return CoordinatorLink(folder) if run.coordinator else FileLink(folder, run.min_nodes)
