"""Rules of buf.validate as JSON schema keywords."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from aegis_gateway.openapi.source import option

Json = dict[str, Any]

_STRING: Final = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern"}
_NUMBER: Final = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
_NUMBERS: Final = ("double", "float", "int32", "uint32", "sint32")


def rules_of(field: FieldDescriptor) -> Any:
    """Return the `buf.validate.field` rules of a field, or None."""
    return option(field, "FieldOptions", "buf.validate.field")


def item_rules(rules: Any) -> Any:
    """Return the rules of the items of a repeated field, or None."""
    if rules is None or not rules.HasField("repeated") or not rules.repeated.HasField("items"):
        return None
    return rules.repeated.items


def scalar_limits(rules: Any) -> Json:
    """Return the keywords that bound one string or number."""
    if rules is None:
        return {}
    if rules.HasField("string"):
        return _keywords(rules.string, _STRING)
    for kind in _NUMBERS:
        if rules.HasField(kind):
            return _keywords(getattr(rules, kind), _NUMBER)
    return {}


def array_limits(rules: Any) -> Json:
    """Return the keywords that bound the number of items."""
    if rules is None or not rules.HasField("repeated"):
        return {}
    return _keywords(rules.repeated, {"min_items": "minItems", "max_items": "maxItems"})


def map_limits(rules: Any) -> Json:
    """Return the keywords that bound the number of entries."""
    if rules is None or not rules.HasField("map"):
        return {}
    return _keywords(rules.map, {"min_pairs": "minProperties", "max_pairs": "maxProperties"})


def _keywords(rules: Any, names: dict[str, str]) -> Json:
    return {keyword: getattr(rules, name) for name, keyword in names.items() if rules.HasField(name)}
