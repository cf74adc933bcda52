"""The recipes that this server can run."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.orchestrator.v1 import RecipeInfo
from tinsmith_server.orchestrator.active_run import ActiveRun, MadeModel
from tinsmith_server.orchestrator.configuration import Violation, recipe_description
from tinsmith_server.orchestrator.peers import Peers
from tinsmith_server.orchestrator.recipes.math_check import check_math_rl, probe_math_rl
from tinsmith_server.orchestrator.recipes.math_rl import math_rl


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe: what it needs, and what it does. `Any` is its configuration's type."""

    needs: Sequence[str]
    """The processes that it uses, as the settings name their addresses."""
    check: Callable[[Any], Sequence[Violation]]
    """What is wrong with a configuration that keeps the contract's rules."""
    probe: Callable[[Any, Peers], Awaitable[None]]
    """Finds before the start what cheap calls can tell: raises what a service says of the configuration."""
    run: Callable[[Any, ActiveRun, Peers], Awaitable[MadeModel]]


RECIPES: Mapping[str, Recipe] = {
    "math_rl": Recipe(
        needs=("trainer", "sampler", "dataset", "environment", "grader"),
        check=check_math_rl,
        probe=probe_math_rl,
        run=math_rl,
    ),
}
"""By the name of the field in RecipeConfig."""


def recipe_info(name: str) -> RecipeInfo:
    """A recipe of the contract: what it does, whether this server runs it, what it needs."""
    recipe = RECIPES.get(name)
    needs = recipe.needs if recipe else ()
    return RecipeInfo(name=name, description=recipe_description(name), available=recipe is not None, needs=needs)
