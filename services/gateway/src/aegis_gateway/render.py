"""Fill the packaged YAML with what differs per deployment, and with the method table; write it for Envoy."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from aegis_common.errors import ConfigurationError
from aegis_common.files import read_file, write_atomic
from aegis_common.rpc.access import MethodRule, descriptor_set_bytes, method_table, unserved_paths
from aegis_gateway import oauth, rbac, routes
from aegis_gateway.openapi import openapi_json
from aegis_gateway.settings import GatewaySettings, split_address, split_endpoint
from aegis_gateway.tree import Tree, dump, load, named, put, walk

BOOTSTRAP: Final = "envoy.yaml"
LISTENERS: Final = "lds.yaml"
CLUSTERS: Final = "cds.yaml"
ROUTES: Final = ("rds_machines.yaml", "rds_people.yaml")
JWT: Final = "ecds/jwt.yaml"
RBAC: Final = ("ecds/rbac_machines.yaml", "ecds/rbac_people.yaml")
OWN_CERTIFICATE: Final = "sds/gateway_cert.yaml"
CLIENT_TRUST: Final = "sds/client_trust.yaml"
SERVICES: Final = ("agent", "carbon", "fl-coordinator")
FL_EDGE: Final = "fl-edge"
AGENT_HTTP: Final = "agent-http"
_SECRETS: Final = (
    OWN_CERTIFICATE,
    CLIENT_TRUST,
    *(f"sds/{name}_trust.yaml" for name in (*SERVICES, FL_EDGE)),
)
# In this order nothing on disk ever names what is not there yet.
_ORDER: Final = (*_SECRETS, JWT, *RBAC, CLUSTERS, *ROUTES, LISTENERS, BOOTSTRAP)
_SOCKET_LIMIT: Final = 100


def render(settings: GatewaySettings, out_dir: Path) -> Path:
    """Write the whole configuration under *out_dir* and return the path of the bootstrap.

    Files whose content stays the same are not touched; the others are replaced by a rename, which a
    running Envoy takes as a change.

    Raises:
        ConfigurationError: A setting or the identities file cannot be used.
        GatewayConfigInvalid: A service of the descriptor set has no cluster.
    """
    return _Renderer(settings, out_dir.absolute()).render()


class _Renderer:
    """One rendering; each `_method` sets the nodes of one concern."""

    def __init__(self, settings: GatewaySettings, out: Path) -> None:
        self.settings = settings
        self.out = out
        self.rules: list[MethodRule] = [rule for rule in method_table().values() if not rule.mesh_internal]
        self.domain = rbac.Domain(
            settings.tls.trust_domain, settings.tls.namespace, settings.token.roles_claim
        )
        self.identities = rbac.read_identities(settings.identities)
        self.signed_in = bool(settings.agent_http and settings.public_url and settings.token.issuer)
        self.descriptors = descriptor_set_bytes()
        document = openapi_json(agent_http=settings.agent_http is not None, sign_in=self.signed_in)
        self.openapi = document.encode()
        # A new name for new content: Envoy reads these files only when the configuration names another.
        self.descriptor_file = out / f"descriptors-{_digest(self.descriptors)}.binpb"
        self.openapi_file = out / f"openapi-{_digest(self.openapi)}.json"
        config = files("aegis_gateway") / "config"
        self.trees = {name: load((config / name).read_text(encoding="utf-8")) for name in _ORDER}

    def render(self) -> Path:
        self._bootstrap()
        self._listeners()
        self._routes()
        self._clusters()
        self._secrets()
        self._jwt()
        self._rbac()
        self._paths()
        _write(self.descriptor_file, self.descriptors)
        _write(self.openapi_file, self.openapi)
        for name in _ORDER:
            _write(self.out / name, dump(self.trees[name]).encode())
        return self.out / BOOTSTRAP

    def _resource(self, file: str, name: str) -> Tree:
        return named(self.trees[file]["resources"], name)

    def _admin_socket(self) -> str:
        path = str((self.settings.admin_socket or self.out / "admin.sock").absolute())
        if len(os.fsencode(path)) > _SOCKET_LIMIT:
            raise ConfigurationError(
                f"the admin socket's path is longer than {_SOCKET_LIMIT} bytes: {path}; set admin_socket",
                admin_socket=path,
            )
        return path

    def _bootstrap(self) -> None:
        tree = self.trees[BOOTSTRAP]
        put(tree, self._admin_socket(), "admin", "address", "pipe", "path")
        monitors = tree["overload_manager"]["resource_monitors"]
        put(monitors, self.settings.max_connections, 0, "typed_config", "max_active_downstream_connections")
        put(monitors, self.settings.max_heap_bytes, 1, "typed_config", "max_heap_size_bytes")

    def _listeners(self) -> None:
        s = self.settings
        addresses = {"machines": s.machines_listen, "people": s.people_listen, "ops": s.ops_listen}
        for name, address in addresses.items():
            put(self._resource(LISTENERS, name), _socket(address), "address")
        for name in ("machines", "people"):
            hcm = self._resource(LISTENERS, name)["filter_chains"][0]["filters"][0]["typed_config"]
            put(hcm, name, "access_log", 0, "typed_config", "log_format", "json_format", "listener")
            self._tracing(hcm["tracing"])
            self._sign_in(hcm)
            self._limits(hcm["http_filters"])

    def _sign_in(self, hcm: Tree) -> None:
        """Set what clients of MCP are told on 401, and whose health counts for the gateway's."""
        if self.settings.agent_http is None:
            health = hcm["http_filters"][0]["typed_config"]["cluster_min_healthy_percentages"]
            del health[AGENT_HTTP]
        if self.settings.agent_http is None or not self.settings.public_url:
            return
        # the first three answers are those of MCP: a token for others, no credentials, bad ones
        for mapper in hcm["local_reply_config"]["mappers"][:3]:
            header = mapper["headers_to_add"][0]["header"]
            put(header, oauth.challenge(header["value"], self.settings.public_url), "value")

    def _tracing(self, tracing: Tree) -> None:
        # Without a collector nothing new is sampled, but trace ids are still made, logged and passed on.
        percent = self.settings.trace_percent if self.settings.otlp_endpoint else 0.0
        put(tracing, percent, "random_sampling", "value")

    def _limits(self, filters: list[Tree]) -> None:
        s = self.settings
        put(named(filters, "body_limit_json"), s.max_json_bytes, "typed_config", "max_request_bytes")
        put(named(filters, "body_limit_inline"), s.max_inline_json_bytes, "typed_config", "max_request_bytes")
        put(named(filters, "body_limit_raw"), s.max_raw_bytes, "typed_config", "max_request_bytes")
        for descriptor in named(filters, "rate_limit")["typed_config"]["descriptors"]:
            put(descriptor, s.request_burst, "token_bucket", "max_tokens")
            put(descriptor, s.requests_per_second, "token_bucket", "tokens_per_fill")

    def _routes(self) -> None:
        for name, file in zip(("machines", "people"), ROUTES, strict=True):
            host = self._resource(file, name)["virtual_hosts"][0]
            cors = host["typed_per_filter_config"]["envoy.filters.http.cors"]
            origins = [{"exact": origin} for origin in self.settings.cors_origins]
            put(cors, origins, "allow_origin_string_match")
            put(
                named(host["routes"], "openapi"),
                str(self.openapi_file),
                "direct_response",
                "body",
                "filename",
            )
            put(
                named(host["routes"], "descriptors"),
                str(self.descriptor_file),
                "direct_response",
                "body",
                "filename",
            )
            media = host["routes"].index(named(host["routes"], "media"))
            before_http = media + 1
            host["routes"] = [
                *routes.grpc_routes([*self.rules, *map(MethodRule, unserved_paths())]),
                *host["routes"][:media],
                *routes.raw_routes(self.rules),
                *host["routes"][media:before_http],
                *routes.inline_routes(self.rules, events=named(host["routes"], "events")),
                *host["routes"][before_http:],
            ]
            self._agent_http(host)
        if self.settings.fl_edge is None:
            host = self._resource(ROUTES[0], "machines")["virtual_hosts"][0]
            host["routes"].remove(named(host["routes"], "fleet"))

    def _agent_http(self, host: Tree) -> None:
        for name in ("protected-resource", "protected-resource-root"):
            route = named(host["routes"], name)
            if self.signed_in:
                put(
                    route, oauth.protected_resource(self.settings), "direct_response", "body", "inline_string"
                )
            else:
                host["routes"].remove(route)
        if self.settings.agent_http is None:
            for name in ("mcp-reads", "mcp", "inference-root", "inference"):
                host["routes"].remove(named(host["routes"], name))

    def _clusters(self) -> None:
        s = self.settings
        upstreams = {
            "agent": s.agent,
            AGENT_HTTP: s.agent_http,
            "carbon": s.carbon,
            "fl-coordinator": s.fl_coordinator,
            FL_EDGE: s.fl_edge,
        }
        for name, addresses in upstreams.items():
            if addresses is None:
                self._drop_cluster(name)
                continue
            cluster = self._resource(CLUSTERS, name)
            put(cluster, _endpoints(addresses), "load_assignment", "endpoints", 0, "lb_endpoints")
            account = "agent" if name == AGENT_HTTP else name
            sni = f"{account}.{s.tls.namespace}.aegis.internal"
            put(cluster, sni, "transport_socket", "typed_config", "sni")
        put(self._resource(CLUSTERS, "admin"), [_pipe(self._admin_socket())], *_LB_ENDPOINTS)
        self._web_cluster("jwks", s.token.jwks if _is_url(s.token.jwks) else "", s.token.jwks_bundle)
        if s.otlp_endpoint:
            self._web_cluster("otel", s.otlp_endpoint, None)
        else:
            self._no_collector()

    def _drop_cluster(self, name: str) -> None:
        self.trees[CLUSTERS]["resources"].remove(self._resource(CLUSTERS, name))

    def _web_cluster(self, name: str, url: str, bundle: Path | None) -> None:
        if not url:
            self._drop_cluster(name)
            return
        parts = urlsplit(url)
        scheme, host, port = split_endpoint(f"{parts.scheme}://{parts.netloc}")
        cluster = self._resource(CLUSTERS, name)
        put(cluster, _endpoints(f"{host}:{port}"), *_LB_ENDPOINTS)
        if scheme == "http":
            del cluster["transport_socket"]
            return
        tls = cluster["transport_socket"]["typed_config"]
        trust = tls["common_tls_context"]["validation_context"]
        put(tls, host, "sni")
        put(trust, str(bundle.absolute()) if bundle else _system_bundle(), "trusted_ca", "filename")
        put(trust, host, "match_typed_subject_alt_names", 0, "matcher", "exact")

    def _no_collector(self) -> None:
        """Leave the collector's cluster without a host: the tracer needs one to name, and drops its spans."""
        otel = self._resource(CLUSTERS, "otel")
        put(otel, "STATIC", "type")
        put(otel, [], *_LB_ENDPOINTS)
        del otel["transport_socket"]

    def _secrets(self) -> None:
        tls = self.settings.tls
        own = self._resource(OWN_CERTIFICATE, "gateway_cert")["tls_certificate"]
        put(own, str(tls.cert.absolute()), "certificate_chain", "filename")
        put(own, str(tls.key.absolute()), "private_key", "filename")
        put(own, str(tls.cert.absolute().parent), "watched_directory", "path")
        ids = {name: ("exact", self.domain.spiffe_id(name)) for name in (*SERVICES, FL_EDGE)}
        for name, (kind, text) in {"client": ("prefix", f"spiffe://{tls.trust_domain}/"), **ids}.items():
            trust = self._resource(f"sds/{name}_trust.yaml", f"{name}_trust")["validation_context"]
            put(trust, str(tls.bundle.absolute()), "trusted_ca", "filename")
            put(trust, str(tls.bundle.absolute().parent), "watched_directory", "path")
            put(trust, text, "match_typed_subject_alt_names", 0, "matcher", kind)

    def _jwt(self) -> None:
        token = self.settings.token
        jwt = self._resource(JWT, "jwt")["typed_config"]
        if not token.issuer:
            # Nobody's token is accepted; a caller that sends one is refused by the service.
            jwt["providers"], jwt["rules"] = {}, []
            return
        provider = jwt["providers"]["issuer"]
        put(provider, token.issuer, "issuer")
        put(provider, [token.audience], "audiences")
        if _is_url(token.jwks):
            del provider["local_jwks"]
            put(provider, token.jwks, "remote_jwks", "http_uri", "uri")
            refresh = routes.duration(token.refresh.total_seconds())
            put(provider, refresh, "remote_jwks", "cache_duration")
        else:
            del provider["remote_jwks"]
            put(provider, _key_set(Path(token.jwks)), "local_jwks", "inline_string")

    def _rbac(self) -> None:
        machines, people = (self._resource(f, "rbac")["typed_config"]["rules"]["policies"] for f in RBAC)
        machines |= rbac.machine_policies(self.rules, self.identities, self.domain)
        people |= rbac.people_policies(self.rules, self.domain)
        machines["unserved"] = rbac.unserved_policy(unserved_paths(), rbac.any_machine(self.domain))
        people["unserved"] = rbac.unserved_policy(unserved_paths(), rbac.any_person())
        if self.settings.agent_http is None:
            del machines[AGENT_HTTP], people[AGENT_HTTP]
        else:
            put(machines, [rbac.any_machine(self.domain)], AGENT_HTTP, "principals")
        nodes = rbac.fleet_principals(self.identities)
        if self.settings.fl_edge is None or not nodes:
            del machines["fleet"]
        else:
            put(machines, nodes, "fleet", "principals")

    def _paths(self) -> None:
        """Make every path of a watched file absolute, and name the transcoder's descriptors and services."""
        services = sorted({rule.service for rule in self.rules if rule.http})
        for node in walk(list(self.trees.values())):
            if "path_config_source" in node:
                source = node["path_config_source"]
                put(source, str(self.out / source["path"]), "path")
                put(source, str(self.out / source["watched_directory"]["path"]), "watched_directory", "path")
            if "proto_descriptor" in node:
                put(node, str(self.descriptor_file), "proto_descriptor")
                put(node, services, "services")
                put(node, self.settings.max_inline_json_bytes, "max_request_body_size")


_LB_ENDPOINTS: Final = ("load_assignment", "endpoints", 0, "lb_endpoints")


def _socket(address: str) -> Tree:
    host, port = split_address(address)
    return {"socket_address": {"address": host, "port_value": port}}


def _endpoints(addresses: str) -> list[Tree]:
    return [{"endpoint": {"address": _socket(address.strip())}} for address in addresses.split(",")]


def _pipe(path: str) -> Tree:
    return {"endpoint": {"address": {"pipe": {"path": path}}}}


def _is_url(jwks: str) -> bool:
    return jwks.startswith("https://")


def _key_set(file: Path) -> str:
    """Return the key set in *file*, without white space.

    Raises:
        ConfigurationError: The file is missing or holds no key set.
    """
    content = read_file(file, "key set of the token issuer")
    try:
        keys = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no JSON Web Key Set: {error!r}", path=str(file)) from error
    return json.dumps({"keys": keys}, separators=(",", ":"))


def _system_bundle() -> str:
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is None:
        raise ConfigurationError("this system has no CA bundle; name one in token.jwks_bundle")
    return bundle


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _write(path: Path, content: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == content):
        write_atomic(path, content)
