"""`tinsmith recipes`: what can be run, and every field of it."""

from pathlib import Path

from rich.console import Console

from tinsmith.orchestrator.v1 import DescribeRecipeRequest, ListRecipesRequest
from tinsmith_server.cli.connect import connected
from tinsmith_server.cli.output import print_json, print_table, say


def list_recipes(home: Path | None, console: Console, *, as_json: bool) -> None:
    """Every recipe of the contract, and whether this suite can run it."""
    with connected(home) as suite:
        recipes = suite.orchestrator.ListRecipes(ListRecipesRequest()).recipes
    if as_json:
        print_json(list(recipes))
        return
    rows = [
        (recipe.name, "yes" if recipe.available else "not yet", ", ".join(recipe.needs), recipe.description)
        for recipe in recipes
    ]
    print_table(console, ("recipe", "available", "needs", "what it does"), rows)


def show(home: Path | None, name: str, console: Console, *, as_json: bool) -> None:
    """Every field of a recipe with type, default and meaning."""
    with connected(home) as suite:
        answer = suite.orchestrator.DescribeRecipe(DescribeRecipeRequest(name=name))
    if as_json:
        print_json(answer)
        return
    recipe = answer.recipe
    say(console, f"{recipe.name}: {recipe.description}")
    rows = [
        (field.name, field.type, field.default_value, _meaning(field.description, field.constraint))
        for field in answer.fields
    ]
    print_table(console, ("field", "type", "default", "meaning"), rows)
    example = next((f" {field.name}={field.default_value}" for field in answer.fields if field.default_value), "")
    say(console, f"run it: tinsmith run {recipe.name}{example}")


def _meaning(description: str, constraint: str) -> str:
    return f"{description} ({constraint})" if constraint else description
