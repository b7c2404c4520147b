"""Models on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from aegis_client.cli.output import clock, print_fields, print_table

if TYPE_CHECKING:
    from aegis_client.model_forms import Model, ModelVerification, ModelVersion


def aliases_text(aliases: Mapping[str, str]) -> str:
    return ", ".join(f"{alias} -> {version}" for alias, version in sorted(aliases.items())) or "-"


def print_model(model: Model) -> None:
    print_fields({"name": model.name, "aliases": aliases_text(model.aliases), "tool": model.tool})


def print_version(title: str, version: ModelVersion) -> None:
    print_fields(
        {
            title: version.version,
            "format": f"{version.format}, {version.size_bytes} bytes",
            "sha256": version.sha256,
            "signed by": version.signer_key_id,
            "made": clock(version.create_time),
            "distrusted": "yes: its signer's key is compromised, so it is not served"
            if version.distrusted
            else "",
        }
    )
    typer.echo(f"provenance\n{json.dumps(version.provenance, indent=2, ensure_ascii=False)}")


def print_checks(found: ModelVerification) -> None:
    rows = [
        (
            check.kind.lower(),
            "ok" if check.passed else "FAULT",
            f"{check.reason}: {check.message}" if check.reason else check.message,
        )
        for check in found.checks
    ]
    print_table(("check", "result", "what was found"), rows, empty="nothing was checked")
