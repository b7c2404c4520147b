"""The form that a bundle's specification gives a model."""

from __future__ import annotations

from typing import Any

from aegis_agent.adapters.models.forms.answers import Labels, LabelWriter, RowWriter
from aegis_agent.adapters.models.forms.form import Form, Reader, Writer, input_schema
from aegis_agent.adapters.models.forms.images import ImageReader
from aegis_agent.adapters.models.forms.rows import RowReader
from aegis_agent.adapters.models.forms.tensors import tensor_form
from aegis_agent.adapters.models.forms.texts import TextReader, TextsReader
from aegis_agent.adapters.models.forms.vectors import VectorWriter
from aegis_agent.adapters.models.tensors import DTYPES
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.inference import Profile, Signature, TensorSpec
from aegis_agent.domain.tool import ToolSpec
from aegis_common.store.bundle import Bundle
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import SPEC_FILE, ModelSpec


def bundle_form(tool: str, bundle: Bundle, signature: Signature, profile: Profile) -> Form:
    """Return how the tool of a bundle's model is called.

    Raises:
        InvalidModelBundle: The specification does not fit the model; the error names the field.
    """
    _check_used(bundle.spec)
    if bundle.spec.task == "raw":
        return tensor_form(tool, signature, bundle.labels)
    made = _Making(tool, bundle, signature, profile)
    reader, writer = made.reader(), made.writer()
    checks = _RowChecks(tool, reader, writer) if isinstance(reader, RowReader) else None
    return Form(reader, writer, checks or _InputChecks(tool, reader, writer), bundle.labels)


class _InputChecks(SchemaChecks):
    """Checks arguments; answers are made by the writer, and there is nothing left to check."""

    def __init__(self, tool: str, reader: Reader, writer: Writer) -> None:
        schema = input_schema(reader, writer)
        super().__init__(
            ToolSpec(name=tool, description="", version="", input_schema=schema, output_schema={})
        )

    def output(self, value: Any) -> None: ...


class _RowChecks(_InputChecks):
    def __init__(self, tool: str, reader: RowReader, writer: Writer) -> None:
        super().__init__(tool, reader, writer)
        self._look = reader.look

    def input(self, arguments: Arguments) -> Arguments:
        if arguments.keys() == {"rows"} and self._look.fit(arguments["rows"]):
            return arguments
        return super().input(arguments)


class _Making:
    def __init__(self, tool: str, bundle: Bundle, signature: Signature, profile: Profile) -> None:
        self._tool = tool
        self._bundle = bundle
        self._spec = bundle.spec
        self._signature = signature
        self._profile = profile

    def reader(self) -> Reader:
        how = self._spec.preprocessing
        if how.image is not None:
            return ImageReader(self._input(), how.image)
        if how.tabular is not None:
            return RowReader(
                self._tool,
                self._signature,
                how.tabular,
                only=self._spec.input or "",
                together=self._profile.rows,
            )
        if how.text is None or self._spec.tokenizer is None:  # the specification makes sure of it
            raise _fault("preprocessing", "is missing")
        if self._spec.task == "text-classification":
            return TextReader(self._signature, how.text, self._spec.tokenizer)
        if how.text.pair:
            raise _fault("preprocessing.text.pair", "an embedding is of one text")
        return TextsReader(self._signature, how.text, self._spec.tokenizer)

    def writer(self) -> Writer:
        output = self._output()
        labels = self._labels(output) if self._bundle.labels else None
        if self._spec.task == "tabular":
            return RowWriter(self._tool, output, labels)
        if labels is None:
            return VectorWriter(self._tool, output, self._spec.postprocessing)
        return LabelWriter(self._tool, output, labels)

    def _labels(self, output: TensorSpec) -> Labels:
        count = len(self._bundle.labels)
        kind, rank = DTYPES[output.datatype].kind, len(output.shape)
        width = output.shape[1] if rank == 2 else 1
        scored = kind == "f"
        if rank not in (1, 2) or kind == "b" or not (scored or width in (None, 1)):
            raise _fault("output", f"{output.name!r} is no row of scores, and no class; name another output")
        if scored and width is not None and width != count and (width, count) != (1, 2):
            raise _fault("labels", f"there are {count}; output {output.name!r} gives {width} scores")
        if not scored and self._spec.postprocessing.activation != "none":
            raise _fault(
                "postprocessing.activation", f"output {output.name!r} gives classes, and none has a score"
            )
        return Labels(self._tool, output, self._bundle.labels, self._spec.postprocessing)

    def _input(self) -> TensorSpec:
        return _named("input", self._spec.input, self._signature.inputs, alone=True)

    def _output(self) -> TensorSpec:
        return _named("output", self._spec.output, self._signature.outputs)


def _check_used(spec: ModelSpec) -> None:
    """Refuse fields that would say nothing with this task."""
    raw, post = spec.task == "raw", spec.postprocessing
    for field, given, wanted in (
        ("input", raw and spec.input is not None, "all of the model's are used"),
        ("output", raw and spec.output is not None, "all of the model's are used"),
        ("input", spec.tokenizer and spec.input is not None, "texts use preprocessing.text.inputs"),
        ("postprocessing.normalize", post.normalize and spec.task != "embedding", "it is for embeddings"),
        (
            "postprocessing.activation",
            post.activation != "none" and (raw or not spec.labels),
            "it is for labels with scores",
        ),
    ):
        if given:
            raise _fault(field, f"says nothing with the task {spec.task} here: {wanted}")


def _named(
    field: str, name: str | None, tensors: tuple[TensorSpec, ...], *, alone: bool = False
) -> TensorSpec:
    """Return the tensor that the specification names, or the only one."""
    told = ", ".join(item.name for item in tensors)
    if alone and len(tensors) > 1:
        raise _fault(field, f"the model takes {told}; with this task nothing fills more than one input")
    if name is None:
        if len(tensors) > 1:
            raise _fault(field, f"is needed: the model has {told}")
        return tensors[0]
    found = next((item for item in tensors if item.name == name), None)
    if found is None:
        raise _fault(field, f"{name!r} is none of the model's: {told}")
    return found


def _fault(field: str, what: str) -> InvalidModelBundle:
    return InvalidModelBundle.at(SPEC_FILE, what, field=field)
