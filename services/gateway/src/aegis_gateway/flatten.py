"""One static bootstrap out of the rendered files: Envoy's own check does not read file-based discovery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from aegis_gateway.errors import GatewayConfigInvalid
from aegis_gateway.render import BOOTSTRAP, CLUSTERS, LISTENERS
from aegis_gateway.tree import Tree, load, walk


def flatten(out_dir: Path) -> Tree:
    """Return the configuration under *out_dir* with every discovered resource in its place.

    Raises:
        GatewayConfigInvalid: A file is missing, is no YAML, or lacks a resource that another file names.
    """
    boot = _read(out_dir / BOOTSTRAP)
    boot.pop("dynamic_resources", None)
    listeners = [_bare(resource) for resource in _resources(out_dir / LISTENERS)]
    clusters = [_bare(resource) for resource in _resources(out_dir / CLUSTERS)]
    secrets: dict[str, Tree] = {}
    for node in walk([listeners, clusters]):
        if "rds" in node:
            rds = node.pop("rds")
            node["route_config"] = _bare(_named(_source(rds["config_source"]), rds["route_config_name"]))
        if "config_discovery" in node:
            discovery = node.pop("config_discovery")
            node["typed_config"] = _named(_source(discovery["config_source"]), node["name"])["typed_config"]
        for reference in _secret_references(node):
            path = _source(reference.pop("sds_config"))
            secrets[reference["name"]] = _bare(_named(path, reference["name"]))
    boot["static_resources"] = {
        "listeners": listeners,
        "clusters": clusters,
        "secrets": [secrets[name] for name in sorted(secrets)],
    }
    return boot


def _secret_references(node: Tree) -> list[Tree]:
    found = [*node.get("tls_certificate_sds_secret_configs", ())]
    if "validation_context_sds_secret_config" in node:
        found.append(node["validation_context_sds_secret_config"])
    return [reference for reference in found if "sds_config" in reference]


def _source(config_source: Tree) -> Path:
    return Path(config_source["path_config_source"]["path"])


def _read(path: Path) -> Tree:
    try:
        tree: Any = load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise GatewayConfigInvalid("a file cannot be read", [f"{path}: {error}"]) from error
    except yaml.YAMLError as error:
        raise GatewayConfigInvalid("a file is no YAML", [f"{path}: {error}"]) from error
    if not isinstance(tree, dict):
        raise GatewayConfigInvalid("a file holds no mapping", [str(path)])
    return tree


def _resources(path: Path) -> list[Tree]:
    resources = _read(path).get("resources")
    if not isinstance(resources, list):
        raise GatewayConfigInvalid("a file has no list `resources`", [str(path)])
    return resources


def _named(path: Path, name: str) -> Tree:
    for resource in _resources(path):
        if resource.get("name") == name:
            return resource
    raise GatewayConfigInvalid("a resource is missing", [f"{path}: nothing is called {name!r}"])


def _bare(resource: Tree) -> Tree:
    return {key: value for key, value in resource.items() if key != "@type"}
