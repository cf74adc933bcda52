"""Recipes: each a page that reads as its algorithm."""

from tinsmith_server.orchestrator.recipes.catalogue import RECIPES, Recipe, recipe_info

__all__ = ["RECIPES", "Recipe", "recipe_info"]
