"""Recipes and the fields of their configurations, as the contract describes them."""

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tinsmith.orchestrator.v1 import RecipeConfig, RecipeField
from tinsmith_server.orchestrator.configuration.comments import comments
from tinsmith_server.orchestrator.configuration.constraints import constraint
from tinsmith_server.orchestrator.configuration.defaults import default_text, fill_defaults
from tinsmith_server.orchestrator.configuration.text_values import INTEGER_RANGES, short_names

_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
} | {number: name for number, (name, _, _) in INTEGER_RANGES.items()}


def recipe_names() -> list[str]:
    """The recipes of the contract, in its order."""
    return [field.name for field in RecipeConfig.DESCRIPTOR.oneofs_by_name["recipe"].fields]


def recipe_description(name: str) -> str:
    """What the recipe does: the comment of its configuration."""
    return comments()[_config_type(name).full_name]


def describe_recipe(name: str) -> tuple[list[RecipeField], RecipeConfig]:
    """Every field of the recipe's configuration, and the configuration with every default filled in."""
    defaults = RecipeConfig()
    inner = getattr(defaults, name)
    inner.SetInParent()
    fill_defaults(inner)
    return [_described(field) for field in _config_type(name).fields], defaults


def _config_type(name: str) -> Descriptor:
    kind = RecipeConfig.DESCRIPTOR.fields_by_name[name].message_type
    assert kind is not None
    return kind


def _described(field: FieldDescriptor) -> RecipeField:
    return RecipeField(
        name=field.name,
        type=f"list of {_type(field)}" if field.is_repeated else _type(field),
        default_value=default_text(field) or "",
        description=comments()[field.full_name],
        constraint=constraint(field),
    )


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name
    if field.enum_type is not None:
        return "|".join(name.lower() for name in short_names(field.enum_type))
    return _TYPES[field.type]
