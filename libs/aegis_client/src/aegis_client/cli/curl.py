"""The HTTP call that does the same as an operation, to copy and paste."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import json_format

if TYPE_CHECKING:
    from aegis_client.core.operation import Feed, Operation
    from aegis_client.profiles import Profile

_FIELD: Final = re.compile(r"\{(\w+)(?:=[^}]*)?\}")
_LONG: Final = 4096
"""Bodies longer than this go in through stdin: a command line has a limit."""


@dataclass(frozen=True, slots=True)
class HttpCall:
    """What the transcoder accepts for an operation."""

    verb: str
    path: str
    body: str


def http_call(operation: Operation[Any] | Feed[Any]) -> HttpCall:
    """Return the HTTP form of an operation whose binding sends the whole rest of the request as body."""
    annotations: Any = importlib.import_module("google.api.annotations_pb2")  # has no types
    rule = operation.method.descriptor.GetOptions().Extensions[annotations.http]
    message = json_format.MessageToDict(operation.request)
    bound = [_json_name(operation, field) for field in _FIELD.findall(rule.post)]
    if not all(message.get(field) for field in bound):
        # an empty path field: another binding has a path without it
        rule, bound = rule.additional_bindings[0], []
    values = iter(message.pop(field) for field in bound)
    path = _FIELD.sub(lambda _match: str(next(values)), rule.post)
    return HttpCall("POST", path, json.dumps(message, separators=(",", ":"), ensure_ascii=False))


def _json_name(operation: Operation[Any] | Feed[Any], field: str) -> str:
    return str(operation.request.DESCRIPTOR.fields_by_name[field].json_name)


def curl(operation: Operation[Any] | Feed[Any], profile: Profile) -> str:
    """Return a shell command; it names files of secrets, and never holds one."""
    call = http_call(operation)
    at_once = ["-N"] if operation.method.descriptor.server_streaming else []
    words = ["curl", "--fail-with-body", "-sS", *at_once, "-X", call.verb]
    for option, path in (("--cacert", profile.ca), ("--cert", profile.cert), ("--key", profile.key)):
        if path:
            words += [option, shlex.quote(str(path))]
    if profile.token_file:
        words += ["-H", f'"authorization: Bearer $(cat {shlex.quote(str(profile.token_file))})"']
    elif profile.token:
        words += ["-H", '"authorization: Bearer $AEGIS_TOKEN"']
    words += ["-H", "'content-type: application/json'"]
    url = f"https://{profile.address}{call.path}"
    if profile.server_name:
        host, _, port = profile.address.rpartition(":")
        words += ["--connect-to", shlex.quote(f"{profile.server_name}:{port}:{host}:{port}")]
        url = f"https://{profile.server_name}:{port}{call.path}"
    if len(call.body) > _LONG:
        return " ".join([*words, "-d", "@-", shlex.quote(url), "<<'EOF'\n"]) + f"{call.body}\nEOF"
    return " ".join([*words, "-d", shlex.quote(call.body), shlex.quote(url)])
