"""Directories into memory, and what is said of those that hold no model."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from tinsmith_server.models import load_causal_lm, load_tokenizer
from tinsmith_server.serving.errors import FailedPrecondition


def test_a_loaded_model_is_ready_for_inference(model_directory: Path) -> None:
    model = load_causal_lm(model_directory)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_models_may_be_loaded_at_the_same_time(model_directory: Path) -> None:
    """transformers can't: two of its loads in two threads leave the process unable to load any more."""
    with ThreadPoolExecutor(3) as threads:
        models = list(threads.map(load_causal_lm, [model_directory] * 6))
    for model in models:
        assert all(map(torch.equal, model.parameters(), models[0].parameters()))


def test_the_element_type_is_chosen_by_name(model_directory: Path) -> None:
    model = load_causal_lm(model_directory, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_any_family_of_transformers_does(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    assert isinstance(load_causal_lm(tmp_path), GPT2LMHeadModel)


def test_missing_weights_are_not_made_up(model_directory: Path, tmp_path: Path) -> None:
    """transformers would fill in random numbers and print a warning."""
    broken = shutil.copytree(model_directory, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        FailedPrecondition, match=r"lack 1 parameters, model\.layers\.0\.mlp\.up_proj\.weight"
    ) as caught:
        load_causal_lm(broken)
    assert caught.value.reason == "BASE_MODEL_UNUSABLE"


def _nothing(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def _no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _cut_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _other_shape(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_size": 64}))


def _unknown_family(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": "abacus"}))


def _no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def _no_language_model(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps({"model_type": "vit"}))


@pytest.mark.parametrize(
    "damage",
    [_nothing, _no_weights, _cut_weights, _other_shape, _unknown_family, _no_json, _no_language_model],
)
def test_a_directory_without_a_usable_model_is_named(damage: object, model_directory: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(model_directory, tmp_path / "broken")
    assert callable(damage)
    damage(broken)
    with pytest.raises(FailedPrecondition, match=r"can't use the base model in .*broken: ") as caught:
        load_causal_lm(broken)
    assert caught.value.reason == "BASE_MODEL_UNUSABLE"
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "choice", [{"dtype": "int8"}, {"dtype": "float64"}, {"device": "abacus:0"}, {"device": "cuda:99"}]
)
def test_a_wrong_device_or_element_type_is_named(choice: dict[str, str], model_directory: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        load_causal_lm(model_directory, **choice)
    assert caught.value.reason == "BASE_MODEL_UNUSABLE"


def test_a_directory_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.reason == "BASE_MODEL_UNUSABLE"


def test_code_of_a_checkpoint_is_not_run(model_directory: Path, tmp_path: Path) -> None:
    hostile = shutil.copytree(model_directory, tmp_path / "hostile")
    trap = tmp_path / "ran"
    (hostile / "evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    config = json.loads((hostile / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (hostile / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    with pytest.raises(FailedPrecondition):
        load_causal_lm(hostile)
    assert not trap.exists()
