"""The gateway: Envoy with the files that aegis-gateway renders."""

from __future__ import annotations

import asyncio
from typing import Final

from aegis_common.settings import TlsSettings, TokenSettings
from aegis_gateway.config import GatewaySettings, envoy_command, render, validate
from aegis_local.credentials import NAMESPACE, TRUST_DOMAIN
from aegis_local.environment import base_environment
from aegis_local.issuer import AUDIENCE, ISSUER
from aegis_local.stack.layout import Layout
from aegis_local.supervisor.probes import https_ok
from aegis_local.supervisor.spec import ProcessSpec, Step, Unit

_ENVOY_THREADS: Final = 2
_CHECK: Final = "gateway-config"


def gateway_units(layout: Layout) -> list[Unit]:
    """Render the configuration; return its check, and the process that comes after it.

    Raises:
        AegisError: A setting does not fit.
    """
    pair = layout.pair("gateway")
    settings = GatewaySettings(
        machines_listen=layout.address("machines"),
        people_listen=layout.address("people"),
        ops_listen=layout.address("gateway_ops"),
        tls=TlsSettings(
            cert=pair.cert,
            key=pair.key,
            bundle=layout.credentials.bundle,
            trust_domain=TRUST_DOMAIN,
            namespace=NAMESPACE,
        ),
        identities=layout.state.identities,
        token=TokenSettings(issuer=ISSUER, audience=AUDIENCE, jwks=str(layout.jwks)),
        agent=",".join(layout.of_agents()),
        agent_http=",".join(layout.of_agents("_http")),
        public_url=layout.public_url,
        carbon=layout.address("carbon"),
        fl_coordinator=layout.address("fl_coordinator"),
        fl_edge=layout.address("fl_edge"),
        admin_socket=layout.socket("envoy-admin"),
    )
    bootstrap = render(settings, layout.state.run / "gateway")

    async def check() -> None:
        # Envoy starts without the files that it does not like, and is then never ready; this says why.
        await asyncio.to_thread(validate, bootstrap.parent)

    process = ProcessSpec(
        name="gateway",
        argv=envoy_command(bootstrap, concurrency=_ENVOY_THREADS),
        env=base_environment(),
        depends_on=[*layout.replicas, "carbon", "fl-coordinator", _CHECK],
        ready=https_ok(f"https://{layout.address('people')}/healthz", bundle=layout.credentials.bundle),
        url=layout.public_url,
    )
    return [Step(name=_CHECK, action=check), process]
