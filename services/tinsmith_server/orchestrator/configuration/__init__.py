"""Configurations of recipes: text to typed messages, defaults, rules, and what a person may read about a field."""

from tinsmith_server.orchestrator.configuration.complete import bad_config, complete_config, recipe_name, total_steps
from tinsmith_server.orchestrator.configuration.describe import describe_recipe, recipe_description, recipe_names
from tinsmith_server.orchestrator.configuration.overrides import Violation

__all__ = [
    "Violation",
    "bad_config",
    "complete_config",
    "describe_recipe",
    "recipe_description",
    "recipe_name",
    "recipe_names",
    "total_steps",
]
