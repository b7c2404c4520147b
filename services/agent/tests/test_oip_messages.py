"""The messages of the inference protocol are those of the unchanged tritonclient."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aegis_agent.adapters.oip import messages as pb
from oip_support import SERVICE


async def test_our_messages_are_the_clients_field_by_field() -> None:
    script = """
import json, sys
from tritonclient.grpc import model_config_pb2, service_pb2
found = {}
def walk(message):
    name = message.full_name
    if name not in found:
        found[name] = {f.name: [f.number, f.type, f.is_repeated, f.message_type and f.message_type.full_name]
                       for f in message.fields}
        for field in message.fields:
            if field.message_type: walk(field.message_type)
rpcs = {m.name: [m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming]
        for m in service_pb2.DESCRIPTOR.services_by_name['GRPCInferenceService'].methods}
for m in service_pb2.DESCRIPTOR.services_by_name['GRPCInferenceService'].methods:
    walk(m.input_type); walk(m.output_type)
kinds = {v.name: v.number for v in model_config_pb2.DataType.DESCRIPTOR.values}
group = {v.name: v.number for v in model_config_pb2.ModelInstanceGroup.Kind.DESCRIPTOR.values}
print(json.dumps([rpcs, found, kinds, group]))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    rpcs, messages, kinds, group = json.loads(out)
    pool = pb.ModelInferRequest.DESCRIPTOR.file.pool
    service = pool.FindServiceByName(SERVICE)
    seen: set[str] = set()

    def check(message: Any) -> None:
        if message.full_name in seen:
            return
        seen.add(message.full_name)
        for field in message.fields:
            inner = field.message_type and field.message_type.full_name
            ours = [field.number, field.type, field.is_repeated, inner]
            assert messages[message.full_name][field.name] == ours, f"{message.full_name}.{field.name}"
            if field.message_type:
                check(field.message_type)

    for method in service.methods:
        streams = [method.client_streaming, method.server_streaming]
        assert rpcs[method.name] == [method.input_type.full_name, method.output_type.full_name, *streams]
        check(method.input_type)
        check(method.output_type)
    assert len(seen) > 40
    assert {v.name: v.number for v in pool.FindEnumTypeByName("inference.DataType").values} == kinds
    kind = pool.FindEnumTypeByName("inference.ModelInstanceGroup.Kind")
    assert {v.name: v.number for v in kind.values} == group
