"""The REST form of the Open Inference Protocol: the protocol's JSON, which is not that of proto3."""

from __future__ import annotations

from typing import Any, Final

from aegis_common.rpc.access import HttpBinding, MethodRule, descriptor_pool_of_set
from aegis_gateway import http_template
from aegis_gateway.openapi.operations import GRPC_TIMEOUT, outline
from aegis_gateway.openapi.schemas import Json, Schemas
from aegis_gateway.routes import method_of

_PARAMETERS: Final = {"model": "Name of the model.", "version": "One of its versions."}
_NOT_READY: Final = {"ServerReady": ("503", "Not ready."), "ModelReady": ("404", "Not ready, or not there.")}
_LENGTH: Final[Json] = {
    "name": "inference-header-content-length",
    "in": "header",
    "description": "Length of the JSON in bytes, when raw bytes follow it.",
    "schema": {"type": "integer", "minimum": 0},
}
_RAW: Final[Json] = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    "description": "The JSON, and behind it the elements of each tensor with a `binary_data_size`, in order.",
}
_DATA: Final[Json] = {
    "type": "array",
    "items": {"type": ["number", "string", "boolean", "array"]},
    "description": "Its elements in row-major order, flat or nested, unless they follow as raw bytes.",
}
_INPUT, _WANTED, _OUTPUT = (
    "inference.ModelInferRequest.InferInputTensor",
    "inference.ModelInferRequest.InferRequestedOutputTensor",
    "inference.ModelInferResponse.InferOutputTensor",
)


_SIZE: Final = "How many raw bytes the tensor has behind the JSON; it has no `data` then."
_BINARY: Final = "Whether its elements come as raw bytes; false by default."


class InferenceForm:
    """The protocol's operations and their schemas.

    Args:
        error: Schema of google.rpc.Status, all of which an error has beside the protocol's `error`.
    """

    def __init__(self, error: Json) -> None:
        self._error: Json = {
            "allOf": [error, {"properties": {"error": {"type": "string"}}, "required": ["error"]}]
        }
        self._schemas = Schemas(plain=True)
        for name in (_INPUT, _OUTPUT):
            self._schemas.put(name, self._tensor(name))
        self._schemas.put(_WANTED, self._wanted())

    def components(self) -> dict[str, Json]:
        return self._schemas.components()

    def operation(self, rule: MethodRule, binding: HttpBinding, number: int) -> Json:
        """Return the operation of a method's REST form, of which it is the *number*th from 0."""
        found = outline(rule, number)
        found["parameters"] = [
            *(_path_parameter(item.name) for item in http_template.parse(binding.path).parameters),
            GRPC_TIMEOUT,
        ]
        infers = rule.method == "ModelInfer"
        if infers:
            found["parameters"].append(_LENGTH)
        if binding.body:
            found["requestBody"] = {"required": infers, "content": _content(self._body(rule), raw=infers)}
        answer = {"description": "OK", "content": _content(self._answer(rule), raw=infers)}
        if infers:
            answer["headers"] = {_LENGTH["name"]: {key: _LENGTH[key] for key in ("description", "schema")}}
        found["responses"] = {"200": answer}
        if rule.method in _NOT_READY:
            code, text = _NOT_READY[rule.method]
            found["responses"][code] = answer | {"description": text}
        found["responses"]["default"] = {
            "description": "The call failed. `details` is as with every other path.",
            "content": _content(self._error),
        }
        return found

    def _body(self, rule: MethodRule) -> Json:
        if rule.method == "ModelInfer":
            path = frozenset({"model_name", "model_version", "raw_input_contents"})
            schema = self._schemas.fields(_message("inference.ModelInferRequest"), without=path)
            return schema | {"required": ["inputs"]}
        if rule.method == "RepositoryIndex":
            ready = {"type": "boolean", "description": "Whether only versions that are ready are listed."}
            return {"type": "object", "properties": {"ready": ready}}
        return {"type": "object"}

    def _answer(self, rule: MethodRule) -> Json:
        output = method_of(rule).output_type
        match rule.method:
            case "ModelInfer":
                return self._schemas.fields(output, without=frozenset({"raw_output_contents", "parameters"}))
            case "ModelReady":
                schema = self._schemas.fields(output)
                schema["properties"]["name"] = {"type": "string", "description": _PARAMETERS["model"]}
                return schema
            case "ModelConfig":
                return self._schemas.field(output.fields_by_name["config"])
            case "RepositoryIndex":
                return self._schemas.field(output.fields_by_name["models"])
        return self._schemas.message(output) if output.fields else {"type": "object"}

    def _tensor(self, name: str) -> Json:
        schema = self._schemas.fields(_message(name), without=frozenset({"contents"}))
        schema["properties"] |= {
            "data": _DATA,
            "parameters": _parameters("binary_data_size", "integer", _SIZE),
        }
        return schema | {"required": ["name", "datatype", "shape"]}

    def _wanted(self) -> Json:
        schema = self._schemas.fields(_message(_WANTED))
        schema["properties"]["parameters"] = _parameters("binary_data", "boolean", _BINARY)
        return schema | {"required": ["name"]}


def _parameters(name: str, kind: str, text: str) -> Json:
    return {"type": "object", "properties": {name: {"type": kind, "description": text}}}


def _path_parameter(name: str) -> Json:
    schema = {"type": "string", "pattern": "^[^/]+$"}
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": _PARAMETERS[name],
        "schema": schema,
    }


def _content(schema: Json, *, raw: bool = False) -> Json:
    content: Json = {"application/json": {"schema": schema}}
    return content | ({"application/octet-stream": {"schema": _RAW}} if raw else {})


def _message(name: str) -> Any:
    return descriptor_pool_of_set().FindMessageTypeByName(name)
