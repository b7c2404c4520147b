"""The file of a version, taken apart: the ONNX model, and the bundle around it where there is one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from aegis_agent.domain.errors import ModelNotLoadable
from aegis_agent.domain.model import ModelVersion
from aegis_common.store.bundle import FORMAT_BUNDLE, Bundle

FORMAT_ONNX: Final = "onnx"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a version's file holds.

    Attributes:
        model: The ONNX file.
        sha256: Its digest.
        bundle: The bundle that it came in, or None.
    """

    model: bytes = field(repr=False)
    sha256: str
    bundle: Bundle | None

    @classmethod
    def of(cls, version: ModelVersion, data: bytes) -> Contents:
        """Take *data* apart; blocks, for seconds if it is made for that.

        Raises:
            ModelNotLoadable: Its format is unknown.
            InvalidModelBundle: It is no sound bundle.
        """
        if version.format == FORMAT_ONNX:
            return cls(data, version.sha256, None)
        if version.format != FORMAT_BUNDLE:
            raise not_loadable(
                version, f"its format is {version.format!r}; {FORMAT_ONNX} and {FORMAT_BUNDLE} are served"
            )
        bundle = Bundle.read(data)
        return cls(bundle.model, hashlib.sha256(bundle.model).hexdigest(), bundle)

    @property
    def providers(self) -> tuple[str, ...]:
        """What may run the model, best first."""
        return ("CPU",) if self.bundle is None else self.bundle.spec.providers


@dataclass(frozen=True, slots=True)
class Told:
    """What is told about a version beside its form: by the bundle, else by the manifest.

    Attributes:
        cacheable: The same input always gives the same answer.
        warnings: Told with every answer.
        labels: Names of the classes in the model's order, or none.
    """

    description: str
    cacheable: bool
    warnings: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, version: ModelVersion, bundle: Bundle | None) -> Told:
        if bundle is not None:
            spec = bundle.spec
            warnings = _warnings(spec.domain, list(spec.warnings))
            told = cls(spec.description, spec.cacheable, warnings, bundle.labels)
        else:
            told = cls(
                _text(_stated(version, "description")),
                _stated(version, "cacheable") is True,
                _warnings(_text(_stated(version, "domain")), _list(_stated(version, "warnings"))),
                tuple(str(item) for item in _list(_stated(version, "labels"))),
            )
        return told


def not_loadable(version: ModelVersion, why: str) -> ModelNotLoadable:
    return ModelNotLoadable(
        f"model {version.model!r} version {version.version!r} cannot be loaded: {why}",
        model=version.model,
        version=version.version,
    )


def _stated(version: ModelVersion, name: str) -> Any:
    """Return what the manifest states: the publisher's word, else the training app's about its model."""
    about = version.provenance.get("model")
    inner = about.get(name) if isinstance(about, Mapping) else None
    return version.provenance.get(name, inner)


def _warnings(domain: str, more: list[Any]) -> tuple[str, ...]:
    stated = [f"domain of the model: {domain}"] if domain else []
    return (*stated, *(str(item) for item in more))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
