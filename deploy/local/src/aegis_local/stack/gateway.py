"""The gateway: Envoy with the files that aegis-gateway renders."""

from __future__ import annotations

from aegis_common.settings import TlsSettings, TokenSettings
from aegis_gateway.config import GatewaySettings, envoy_command, render
from aegis_local.credentials import NAMESPACE, TRUST_DOMAIN
from aegis_local.environment import base_environment
from aegis_local.issuer import AUDIENCE, ISSUER
from aegis_local.stack.layout import Layout
from aegis_local.supervisor.probes import https_ok
from aegis_local.supervisor.spec import ProcessSpec

_ENVOY_THREADS = 2


def gateway_unit(layout: Layout) -> ProcessSpec:
    """Render the configuration and return the process.

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
        agent=layout.address("agent"),
        carbon=layout.address("carbon"),
        fl_coordinator=layout.address("fl_coordinator"),
        fl_edge=layout.address("fl_edge"),
        admin_socket=layout.socket("envoy-admin"),
    )
    bootstrap = render(settings, layout.state.run / "gateway")
    return ProcessSpec(
        name="gateway",
        argv=envoy_command(bootstrap, concurrency=_ENVOY_THREADS),
        env=base_environment(),
        depends_on=["agent", "carbon", "fl-coordinator"],
        ready=https_ok(f"https://{layout.address('people')}/healthz", bundle=layout.credentials.bundle),
        url=f"https://localhost:{layout.ports['people']}",
    )
