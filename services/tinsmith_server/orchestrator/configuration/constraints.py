"""The rules of a field in words."""

from google.protobuf.descriptor import FieldDescriptor

from buf.validate import validate_pb2 as rules

_WORDS = {
    "gt": "above {}",
    "gte": "at least {}",
    "lt": "below {}",
    "lte": "at most {}",
    "const": "{}",
    "min_len": "at least {} characters",
    "max_len": "at most {} characters",
    "pattern": "matching {}",
    "min_items": "at least {} items",
    "max_items": "at most {} items",
}
_ORDER = {name: number for number, name in enumerate(_WORDS)}


def constraint(field: FieldDescriptor) -> str:
    """What values the field takes, for example "above 0, at most 4096"; empty when any."""
    options = field.GetOptions()
    if not options.HasExtension(rules.field):
        return ""
    own = options.Extensions[rules.field]
    kind = own.WhichOneof("type")
    if kind is None:
        return ""
    parts: list[str] = []
    for rule, value in sorted(getattr(own, kind).ListFields(), key=lambda item: _ORDER.get(item[0].name, 0)):
        if rule.name == "in":
            parts.append("one of " + ", ".join(str(item) for item in value))
        elif rule.name == "finite":
            parts.append("finite")
        elif rule.name in _WORDS:
            parts.append(_WORDS[rule.name].format(f"{value:g}" if isinstance(value, float) else value))
    return ", ".join(parts)
