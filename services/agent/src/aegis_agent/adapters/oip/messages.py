"""Messages of package `inference`, out of the descriptor set.

They live in a pool of their own: generated code would register the package in the process-wide pool, where it
collides with that of every other client of the protocol, such as a tool that calls another model server.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import message_factory

from aegis_common.rpc.access import descriptor_pool_of_set

SERVICE: Final = "inference.GRPCInferenceService"


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(
        descriptor_pool_of_set().FindMessageTypeByName(f"inference.{name}")
    )


ServerLiveResponse: Final = _message("ServerLiveResponse")
ServerReadyResponse: Final = _message("ServerReadyResponse")
ServerMetadataResponse: Final = _message("ServerMetadataResponse")
ModelReadyResponse: Final = _message("ModelReadyResponse")
ModelMetadataResponse: Final = _message("ModelMetadataResponse")
ModelConfigResponse: Final = _message("ModelConfigResponse")
ModelStatisticsResponse: Final = _message("ModelStatisticsResponse")
ModelInferRequest: Final = _message("ModelInferRequest")
ModelInferResponse: Final = _message("ModelInferResponse")
ModelStreamInferResponse: Final = _message("ModelStreamInferResponse")
RepositoryIndexResponse: Final = _message("RepositoryIndexResponse")
RepositoryModelLoadResponse: Final = _message("RepositoryModelLoadResponse")
RepositoryModelUnloadResponse: Final = _message("RepositoryModelUnloadResponse")


def method_types() -> dict[str, tuple[Any, Any]]:
    """Return the classes of each method's request and answer, by the method's name."""
    service = descriptor_pool_of_set().FindServiceByName(SERVICE)
    of = message_factory.GetMessageClass
    return {method.name: (of(method.input_type), of(method.output_type)) for method in service.methods}
