"""A configuration as it will be frozen: what the caller gave, the overrides over it, defaults below it, checked."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from google.protobuf.message import Message

from tinsmith.orchestrator.v1 import RecipeConfig
from tinsmith_server.orchestrator.configuration.defaults import fill_defaults
from tinsmith_server.orchestrator.configuration.describe import recipe_names
from tinsmith_server.orchestrator.configuration.overrides import Violation, apply_overrides
from tinsmith_server.serving.errors import InvalidArgument, NotFound
from tinsmith_server.serving.validation import validate


def complete_config(recipe: str, given: RecipeConfig, overrides: Mapping[str, str]) -> tuple[str, RecipeConfig]:
    """The recipe's name and its whole configuration.

    NotFound with reason RECIPE_NOT_FOUND; InvalidArgument with reason BAD_CONFIG and a violation for each wrong key or
    value.
    """
    name = _named(recipe, given)
    config = RecipeConfig()
    config.CopyFrom(given)
    inner: Message = getattr(config, name)
    inner.SetInParent()
    violations = apply_overrides(inner, overrides)
    fill_defaults(inner)
    violations += _broken_rules(inner, {key.partition(".")[0] for key, _ in violations})
    if violations:
        raise bad_config(name, violations)
    return name, config


def bad_config(recipe: str, violations: Sequence[Violation]) -> InvalidArgument:
    """The error of a configuration that does not do."""
    said = "; ".join(f"{key}: {text}" for key, text in violations)
    return InvalidArgument(
        f"the configuration of {recipe} does not do: {said}",
        reason="BAD_CONFIG",
        metadata={"recipe": recipe},
        violations=violations,
    )


def total_steps(config: RecipeConfig) -> int:
    """How many steps the run will do; 0 when its recipe does not say beforehand."""
    return int(getattr(getattr(config, config.WhichOneof("recipe") or ""), "steps", 0))


def _named(recipe: str, given: RecipeConfig) -> str:
    of_config = given.WhichOneof("recipe") or ""
    if recipe and of_config and recipe != of_config:
        raise bad_config(recipe, [("recipe", f"is {recipe!r}, but the configuration is one of {of_config!r}")])
    return recipe_name(recipe or of_config)


def recipe_name(name: str) -> str:
    """The name, if the contract has such a recipe. NotFound with reason RECIPE_NOT_FOUND."""
    names = recipe_names()
    if name in names:
        return name
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise NotFound(
        f"no recipe {name!r}: {hint}there are {', '.join(names)}",
        reason="RECIPE_NOT_FOUND",
        metadata={"recipe": name, "recipes": ",".join(names)},
    )


def _broken_rules(config: Message, refused: set[str]) -> list[Violation]:
    """The contract's rules that the values break, but for fields of which some text was refused."""
    try:
        validate(config)
    except InvalidArgument as error:
        return [violation for violation in error.violations if violation[0].partition(".")[0] not in refused]
    return []
