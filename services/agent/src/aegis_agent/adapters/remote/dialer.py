"""In a worker: how the agent is reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_common.errors import ConfigurationError
from aegis_common.rpc.limits import METADATA_OPTIONS

MAX_MESSAGE_BYTES: Final = 80 << 20
"""Largest message from the agent: a call may bring 64 MiB out of artifacts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialer:
    """Opens streams to an agent, each with the certificate as it is then.

    Attributes:
        address: `host:port` of the gateway, or of an agent.
        cert: Client certificate chain, PEM.
        key: Its private key, PEM.
        ca: Trusted authorities, PEM.
        server_name: Name that the server's certificate must carry, if not the host of the address.
    """

    address: str
    cert: Path
    key: Path
    ca: Path
    server_name: str = ""

    def open(self) -> Line:
        """Return a stream that is about to be connected.

        Raises:
            ConfigurationError: A file cannot be read.
        """
        credentials = grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # a new stream is a new connection, with a new certificate
            *METADATA_OPTIONS,
        ]
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        channel = grpc.aio.secure_channel(self.address, credentials, options)
        return Line(channel, pb_grpc.WorkerServiceStub(channel).Connect())


class Line:
    """One stream to an agent.

    Attributes:
        replaced: Another one has taken its place; nothing more is written to it.
    """

    def __init__(self, channel: grpc.aio.Channel, call: Any) -> None:
        self._channel = channel
        self._call = call
        self.replaced = False

    async def write(self, message: pb.ConnectRequest) -> None:
        """Send a message; return when there is room for the next one.

        Raises:
            grpc.aio.AioRpcError: The stream has ended.
        """
        await self._call.write(message)

    async def read(self) -> pb.ConnectResponse | None:
        """Return the next message, or None when the agent has ended the stream well.

        Raises:
            grpc.aio.AioRpcError: The stream has failed.
        """
        message = await self._call.read()
        return None if message is grpc.aio.EOF else message

    async def finish(self) -> None:
        """Say that no further message comes."""
        await self._call.done_writing()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close(None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
