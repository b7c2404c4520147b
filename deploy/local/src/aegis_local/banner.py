"""What `aegis up` prints when everything answers: addresses, and lines to copy."""

from __future__ import annotations

from aegis_common.pki import server_dns
from aegis_local.credentials import NAMESPACE
from aegis_local.stack.layout import Layout


def banner(layout: Layout) -> str:
    """Return the text; every line of it that is a command works as it stands while the stack runs."""
    state, bundle = layout.state.root, layout.credentials.bundle
    sdk, debugger = layout.pair("sdk"), layout.pair("debugger")
    people, machines = f"https://localhost:{layout.ports['people']}", f"localhost:{layout.ports['machines']}"
    option = "" if state == state.cwd() / ".aegis" else f" --state-dir {state}"
    client = f"aegis --profile-file {layout.state.profiles}" if option else "aegis"
    echo = '{"tool": "tools/echo", "payload": [{"text": "hello"}]}'
    gateway = server_dns("gateway", NAMESPACE)
    nodes = f"{layout.nodes} training nodes" if layout.nodes else "no training nodes"
    parts = f"{layout.agents} agents, {nodes}" if layout.agents > 1 else nodes
    return f"""
AEGIS is up ({parts}). For development only: this CA and this token issuer belong to this machine.

  People    {people}            TLS and a bearer token
  Machines  https://{machines}            TLS and a client certificate
  API       {people}/openapi.json
  Metrics   http://{layout.address("gateway_ops")}/stats/prometheus
  State     {state}     logs: aegis logs{option} -f

  {client} tools list
  curl --cacert {bundle} -H "Authorization: Bearer $(aegis token{option})" {people}/v1/tools
  curl --cacert {bundle} -H "Authorization: Bearer $(aegis token{option})" \\
    -d '{{"payload": [{{"text": "hello"}}]}}' {people}/v1/tools/echo:dispatch
  buf curl --cacert {bundle} --cert {sdk.cert} --key {sdk.key} --protocol grpc \\
    -d '{echo}' https://{machines}/aegis.agent.v1.AgentService/Dispatch
  grpcurl -cacert {bundle} -cert {debugger.cert} -key {debugger.key} -authority {gateway} \\
    {machines} list
  python - <<'PY'
from aegis_client import Client
with Client.from_profile(file="{layout.state.profiles}") as client:
    print(client.tools.run("echo", {{"text": "hello"}}).value)
PY

A model of your own: `{client} models keys enroll` once, then
`{client} models push DIR --name NAME --alias prod`.
Stop with Ctrl-C or `aegis down{option}`.
"""
