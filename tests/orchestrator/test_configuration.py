"""Configurations: overrides as text, defaults, rules, and what clients may read about them."""

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from tests.orchestrator.support import Bench
from tinsmith import TinsmithError
from tinsmith.orchestrator.v1 import (
    DescribeRecipeRequest,
    ListRecipesRequest,
    MathRlConfig,
    RecipeConfig,
    StartRunRequest,
)
from tinsmith_server.orchestrator.configuration import complete_config, describe_recipe, recipe_names
from tinsmith_server.serving.errors import InvalidArgument, NotFound


def configured(**overrides: str) -> MathRlConfig:
    return complete_config("math_rl", RecipeConfig(), overrides)[1].math_rl


def violations(overrides: dict[str, str]) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        complete_config("math_rl", RecipeConfig(), overrides)
    assert caught.value.reason == "BAD_CONFIG"
    return dict(caught.value.violations)


GOOD = [
    ("learning_rate", "1e-5", 1e-5),
    ("learning_rate", ".5", 0.5),
    ("seed", "-1", -1),
    ("seed", "9007199254740993", 9007199254740993),
    ("steps", "7", 7),
    ("loss", "ppo", "ppo"),
    ("base_model", "foo", "foo"),
    ("remove_constant_groups", "False", False),
    ("remove_constant_groups", "1", True),
    ("remove_constant_groups", "no", False),
    ("load_checkpoint", "", ""),
]


@pytest.mark.parametrize(("key", "text", "value"), GOOD)
def test_values_are_read_as_their_fields_type(key: str, text: str, value: object) -> None:
    """C-04, C-08: `1e-5`, `-1` and any word parse; booleans in the ways that people write them."""
    assert getattr(configured(**{key: text}), key) == value


HUB = {"dataset.hub.id": "openai/gsm8k"}
FILES = {"dataset.files.uris": "a.jsonl"}
CATALOGUE = {"dataset.catalogue.name": "gsm8k"}
NESTED = [
    ({**HUB, "dataset.hub.split": "train[:10%]"}, {"hub": {"id": "openai/gsm8k", "split": "train[:10%]"}}),
    (
        {**CATALOGUE, "dataset.catalogue.options.level": "3"},
        {"catalogue": {"name": "gsm8k", "options": {"level": "3"}}},
    ),
    (
        {**CATALOGUE, "dataset.catalogue.options": "x=1,y=a b"},
        {"catalogue": {"name": "gsm8k", "options": {"x": "1", "y": "a b"}}},
    ),
    (
        {**CATALOGUE, "dataset.catalogue.options": '{"x": "1,2"}'},
        {"catalogue": {"name": "gsm8k", "options": {"x": "1,2"}}},
    ),
    ({"dataset.files.uris": "a.jsonl,b.jsonl"}, {"files": {"uris": ["a.jsonl", "b.jsonl"]}}),
    ({"dataset.files.uris": '["a,b.jsonl"]'}, {"files": {"uris": ["a,b.jsonl"]}}),
    (
        {**FILES, "dataset.files.format": "jsonl"},
        {"files": {"uris": ["a.jsonl"], "format": "FILE_FORMAT_JSONL"}},
    ),
    (
        {**FILES, "dataset.files.bad_rows": "BAD_ROW_POLICY_SKIP"},
        {"files": {"uris": ["a.jsonl"], "bad_rows": "BAD_ROW_POLICY_SKIP"}},
    ),
    ({"dataset": '{"hub": {"id": "x"}}', "dataset.hub.split": "test"}, {"hub": {"id": "x", "split": "test"}}),
    (
        {**HUB, "dataset.operations": '[{"take": {"count": 5}}]'},
        {"hub": {"id": "openai/gsm8k"}, "operations": [{"take": {"count": "5"}}]},
    ),
]


@pytest.mark.parametrize(("overrides", "dataset"), NESTED)
def test_nested_fields_lists_maps_and_enums_are_reached_by_dots(
    overrides: dict[str, str], dataset: dict[str, object]
) -> None:
    """C-04."""
    assert MessageToDict(configured(**overrides).dataset, preserving_proto_field_name=True) == dataset


def test_an_override_wins_over_the_configuration_and_both_over_the_default() -> None:
    """C-04: the last word wins. A value that an override replaces need not be right."""
    given = RecipeConfig(math_rl=MathRlConfig(steps=3, group_size=0, lora_rank=4))
    _, config = complete_config("", given, {"steps": "5", "group_size": "2"})
    inner = config.math_rl
    assert (inner.steps, inner.group_size, inner.lora_rank, inner.groups_per_batch) == (5, 2, 4, 50)
    assert given.math_rl.steps == 3, "what the caller gave is not changed"


def test_every_default_is_filled_in() -> None:
    """C-02, C-06: the whole configuration is explicit, and comes back from its bytes as it was."""
    config = configured()
    absent = {field.name for field in config.DESCRIPTOR.fields} - {field.name for field, _ in config.ListFields()}
    assert absent == {"dataset"}
    assert (config.learning_rate, config.steps, config.remove_constant_groups) == (2e-3, 40, True)
    assert MathRlConfig.FromString(config.SerializeToString()) == config


BAD = [
    ("steps", "x", "not an int32"),
    ("steps", "1.5", "not an int32"),
    ("steps", "3000000000", "does not fit"),
    ("steps", "0", "greater than 0"),
    ("learning_rate", "fast", "not a number"),
    ("learning_rate", "inf", "finite"),
    ("learning_rate", "nan", "finite"),
    ("remove_constant_groups", "maybe", "not a bool"),
    ("loss", "pp", "importance_sampling, ppo"),
    ("learning_rat", "1", "did you mean 'learning_rate'"),
    ("lr", "1", "'learning_rate'"),
    ("grupe_size", "1", "'group_size'"),
    ("dataset.hub.idd", "x", "did you mean 'id'"),
    ("dataset.files.format", "jsonll", "did you mean jsonl"),
    ("dataset.files.format", "xml", "csv"),
    ("steps.x", "1", "no fields"),
    ("dataset.operations.take", "1", "JSON array"),
    ("dataset", "{", "no JSON"),
    ("dataset", '{"hubb": 1}', "does not fit"),
    ("", "1", "no field"),
]


@pytest.mark.parametrize(("key", "text", "words"), BAD)
def test_what_is_wrong_is_said_of_the_key_that_is_wrong(key: str, text: str, words: str) -> None:
    """C-05: unknown keys with a suggestion, bad types, values outside of the rules."""
    found = violations({key: text})
    assert list(found) == [key]
    assert words in found[key]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = violations({"steps": "x", "lr": "1", "group_size": "0", "loss": "ppo"})
    assert set(found) == {"steps", "lr", "group_size"}


def test_two_choices_where_one_is_possible_contradict_each_other() -> None:
    found = violations({"dataset.hub.id": "x", "dataset.catalogue.name": "y"})
    assert list(found) == ["dataset.hub.id"]
    assert "contradicts 'dataset.catalogue.name'" in found["dataset.hub.id"]


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(NotFound, match="did you mean 'math_rl'") as caught:
        complete_config("math_lr", RecipeConfig(), {})
    assert caught.value.reason == "RECIPE_NOT_FOUND"
    assert caught.value.metadata["recipes"].split(",") == recipe_names()
    with pytest.raises(InvalidArgument, match="supervised"):
        complete_config("math_rl", RecipeConfig(supervised={}), {})


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_field_of_every_recipe_is_described(recipe: str) -> None:
    """C-07: type, default, meaning; the defaults are those that an override would write."""
    fields, defaults = describe_recipe(recipe)
    assert all(field.type and field.description for field in fields)
    again = RecipeConfig()
    getattr(again, recipe).SetInParent()
    written = {field.name: field.default_value for field in fields if field.default_value}
    if recipe != "distillation":  # its datasets have no default, which its rules do not ask for either
        assert complete_config(recipe, again, written)[1] == defaults


def test_a_description_says_type_default_meaning_and_rules() -> None:
    rank = next(field for field in describe_recipe("math_rl")[0] if field.name == "lora_rank")
    assert (rank.type, rank.default_value) == ("int32", "8")
    assert (rank.description, rank.constraint) == ("Rank of the adapter.", "above 0, at most 4096")
    mode = next(field for field in describe_recipe("distillation")[0] if field.name == "mode")
    assert mode.type == "on_policy|off_policy|prompt|self"


async def test_a_bad_configuration_reaches_the_client_with_its_violations(orchestra: Bench) -> None:
    with pytest.raises(TinsmithError) as caught:
        await orchestra.start(lr="1", steps="x")
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_CONFIG")
    assert {item.field for item in error.violations} == {"lr", "steps"}


async def test_a_typed_configuration_is_checked_like_text_and_mended_by_it(orchestra: Bench) -> None:
    config = RecipeConfig(math_rl=MathRlConfig(steps=0))
    request = StartRunRequest(config=config, dry_run=True)
    with pytest.raises(TinsmithError, match="BAD_CONFIG") as caught:
        await orchestra.suite.orchestrator.StartRun(request)
    assert [item.field for item in caught.value.violations] == ["steps"]
    request.overrides["steps"] = "3"
    run = (await orchestra.suite.orchestrator.StartRun(request)).run
    assert (run.recipe, run.config.math_rl.steps) == ("math_rl", 3)
    with pytest.raises(TinsmithError, match="INVALID_REQUEST"):
        await orchestra.suite.orchestrator.StartRun(StartRunRequest(config=config, request_id="x" * 200))


async def test_recipes_are_listed_with_what_they_need(orchestra: Bench) -> None:
    listed = (await orchestra.suite.orchestrator.ListRecipes(ListRecipesRequest())).recipes
    assert [recipe.name for recipe in listed] == recipe_names()
    assert [recipe.name for recipe in listed if recipe.available] == ["math_rl"]
    shown = await orchestra.suite.orchestrator.DescribeRecipe(DescribeRecipeRequest(name="math_rl"))
    assert list(shown.recipe.needs) == ["trainer", "sampler", "dataset", "environment", "grader"]
    assert shown.defaults.math_rl.steps == 40
    with pytest.raises(TinsmithError, match="RECIPE_NOT_FOUND"):
        await orchestra.suite.orchestrator.DescribeRecipe(DescribeRecipeRequest(name="nothing"))


async def test_a_recipe_that_is_not_there_yet_says_so(orchestra: Bench) -> None:
    with pytest.raises(TinsmithError, match="math_rl") as caught:
        await orchestra.suite.orchestrator.StartRun(StartRunRequest(recipe="dpo"))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNIMPLEMENTED, "RECIPE_NOT_IMPLEMENTED")
