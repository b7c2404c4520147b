"""A run's models, piece by piece."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.adapters.run_folders import VolumeFolders
from aegis_fl_coordinator.domain.errors import ModelNotKept, OffsetOutOfRange
from aegis_fl_coordinator.domain.run import TrainingRun

_PIECE: Final = 1 << 20
_TYPE: Final = "application/octet-stream"


async def pieces(
    folders: VolumeFolders, run: TrainingRun, request: pb.DownloadModelRequest
) -> AsyncIterator[pb.DownloadModelResponse]:
    """Yield what a request asks for; the file stays whole though the run goes on and removes it.

    Raises:
        ModelNotKept: There is no such file.
        OffsetOutOfRange: The file is shorter.
    """
    newest = run.rounds[-1].number if run.rounds else 0
    if request.format == pb.DownloadModelRequest.FORMAT_ONNX:
        number = newest
        file = await asyncio.to_thread(folders.open_exported, run)
    else:
        number = request.round or newest
        if not number:
            raise ModelNotKept(f"{run.name} has no rounds yet", name=run.name)
        file = await asyncio.to_thread(folders.open_parameters, run, number)
    with file:
        size = os.fstat(file.fileno()).st_size
        if request.offset > size:
            raise OffsetOutOfRange(
                f"offset is {request.offset}; the file has {size} bytes",
                violations={"offset": f"is above {size}"},
            )
        file.seek(request.offset)
        kind = _TYPE
        while True:
            data = await asyncio.to_thread(file.read, _PIECE)
            if not data and not kind:
                return
            content = HttpBody(content_type=kind, data=data)
            yield pb.DownloadModelResponse(content=content, total_bytes=size, round=number)
            kind = ""
