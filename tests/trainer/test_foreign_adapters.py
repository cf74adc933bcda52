"""Adapters that PEFT made, uploaded and trained on: the same numbers as with PEFT and torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import safetensors.torch
import torch

from tests.trainer.calls import CROSS_ENTROPY, batch, forward_backward, optim_step
from tests.trainer.foreign import BETAS, EPS, LEARNING_RATE, Foreign
from tests.trainer.models import base_model
from tests.trainer.saving import save
from tinsmith import TinsmithError
from tinsmith.aio import Suite, download_checkpoint, upload_checkpoint
from tinsmith.arrays import rows
from tinsmith.trainer.v1 import AdamParams, CreateModelRequest, ForwardRequest, GetCheckpointRequest, Model
from tinsmith_server.trainer.checkpoints.foreign_adapter import shape_of_adapter
from tinsmith_server.trainer.checkpoints.peft_config import read_config
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel

URI = "tinsmith://foreign/training/uploaded"
ADAM = AdamParams(learning_rate=LEARNING_RATE, beta1=BETAS[0], beta2=BETAS[1], eps=EPS)

CONFIGS: dict[str, dict[str, Any]] = {
    "all linear": {"target_modules": "all-linear", "lora_alpha": 8},
    "two kinds": {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 16, "lora_dropout": 0.1},
    "rslora": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 8, "use_rslora": True},
    "one layer": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "a pattern": {"target_modules": r".*layers\.0\.(self_attn\.[qk]_proj|mlp\.gate_proj)"},
    "with the head": {"target_modules": ["o_proj", "lm_head"], "lora_alpha": 4},
    "gaussian": {"target_modules": ["k_proj"], "init_lora_weights": "gaussian", "exclude_modules": ["layers.0"]},
}


async def uploaded(suite: Suite, folder: Path) -> Model:
    """A model that goes on from the uploaded adapter."""
    await upload_checkpoint(suite, folder, URI, base_model="random", overwrite=True)
    return (await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=URI))).model


async def logprobs(suite: Suite, model: Model) -> np.ndarray:  # type: ignore[type-arg]
    request = ForwardRequest(model_id=model.model_id, loss=CROSS_ENTROPY, batch=batch())
    return np.concatenate(rows((await suite.trainer.Forward(request)).logprobs))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Halves of a PEFT folder's adapter."""
    found = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    return {name: value for name, value in found.items() if ".lora_" in name}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")  # PEFT's advice about tied heads
async def test_an_adapter_of_peft_is_trained_on_as_peft_would(
    suite: Suite, tmp_path: Path, model_directory: Path, name: str
) -> None:
    theirs = Foreign.make(model_directory, **CONFIGS[name])
    theirs.train(3)
    model = await uploaded(suite, theirs.save(tmp_path / "theirs"))
    expected = torch.cat(theirs.logprobs()).detach().numpy()
    np.testing.assert_allclose(await logprobs(suite, model), expected, atol=1e-5)

    again = Foreign.load(model_directory, tmp_path / "theirs")
    again.train(1)
    await suite.trainer.ForwardBackward(forward_backward(model))
    await suite.trainer.OptimStep(optim_step(model, adam=ADAM))
    saved = await save(suite, model)
    await download_checkpoint(suite, saved.uri, tmp_path / "ours")
    ours, expected_weights = tensors(tmp_path / "ours"), tensors(again.save(tmp_path / "again"))
    assert ours.keys() == expected_weights.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, expected_weights[key], atol=1e-5, rtol=1e-5, msg=key)

    back = Foreign.load(model_directory, tmp_path / "ours")
    found = torch.cat(back.logprobs()).detach().numpy()
    np.testing.assert_allclose(await logprobs(suite, model), found, atol=1e-5)


async def test_half_precision_is_read_as_it_is(suite: Suite, tmp_path: Path, model_directory: Path) -> None:
    theirs = Foreign.make(model_directory, target_modules=["q_proj", "v_proj"])
    theirs.train(2)
    folder = theirs.save(tmp_path / "theirs")
    halves = {name: value.to(torch.bfloat16) for name, value in tensors(folder).items()}
    safetensors.torch.save_file(halves, folder / "adapter_model.safetensors")
    model = await uploaded(suite, folder)
    expected = torch.cat(Foreign.load(model_directory, folder).logprobs()).detach().numpy()
    np.testing.assert_allclose(await logprobs(suite, model), expected, atol=1e-5)


async def test_what_is_shown_names_the_adapted_matrices(suite: Suite, tmp_path: Path, model_directory: Path) -> None:
    for config, names in [
        (CONFIGS["two kinds"], ["down_proj", "q_proj"]),
        (CONFIGS["one layer"], ["model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]),
    ]:
        model = await uploaded(suite, Foreign.make(model_directory, **config).save(tmp_path / "theirs"))
        assert list(model.lora.target_modules) == names
        checkpoint = (await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=URI))).checkpoint
        assert checkpoint.lora == model.lora


async def test_the_same_matrices_can_be_asked_for_without_an_upload(suite: Suite) -> None:
    request = CreateModelRequest(base_model="random")
    request.lora.rank = 4
    request.lora.target_modules.extend(["q_proj", "model.layers.0.mlp.up_proj"])
    model = (await suite.trainer.CreateModel(request)).model
    assert model.trainable_parameters == 4 * (2 * (32 + 64) + (32 + 64))
    saved = await save(suite, model)
    again = (await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=saved.uri))).model
    assert again.lora == model.lora
    request.lora.target_modules.append("z_proj")
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.CreateModel(request)
    assert (refused.value.reason, refused.value.metadata["module"]) == ("BASE_MODEL_UNSUPPORTED", "z_proj")


@pytest.mark.filterwarnings("ignore")
def test_matrices_that_the_base_keeps_transposed_are_read_alike(tmp_path: Path) -> None:
    """GPT-2's, whose adapters PEFT marks fan_in_fan_out."""
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)
    theirs = peft.get_peft_model(base_model("gpt2"), config)
    for name, value in theirs.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    theirs.eval().save_pretrained(tmp_path)
    base = causal_model(base_model("gpt2"), name="gpt2")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shape = shape_of_adapter(read_config(files["adapter_config.json"]), tmp_path / "adapter_model.safetensors", base)
    assert shape.target_modules == ("attn.c_attn", "mlp.c_proj")
    ours = TrainedModel(base, shape, limits=Limits())
    ours.load(files, with_optimizer=False)
    rewritten = tmp_path / "ours"
    rewritten.mkdir()
    for name, content in ours.adapter_files().items():
        (rewritten / name).write_bytes(content)
    again = peft.PeftModel.from_pretrained(base_model("gpt2"), rewritten).eval()
    tokens = torch.tensor([[1, 2, 3, 50, 7]])
    with torch.no_grad():
        expected = theirs(input_ids=tokens).logits
        torch.testing.assert_close(again(input_ids=tokens).logits, expected, atol=1e-6, rtol=1e-6)
        assert (base_model("gpt2")(input_ids=tokens).logits - expected).abs().max() > 1e-2


REFUSED: dict[str, dict[str, Any]] = {
    "use_dora": {"target_modules": ["q_proj"], "use_dora": True},
    "rank_pattern": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 8}},
    "alpha_pattern": {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 8}},
    "bias": {"target_modules": ["q_proj"], "bias": "all"},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "init_lora_weights": {"target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "trainable_token_indices": {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]},
    "lora_bias": {"target_modules": ["q_proj"], "lora_bias": True},
    "embed_tokens": {"target_modules": ["q_proj", "embed_tokens"]},
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore")
async def test_what_is_not_plain_lora_is_refused_by_name(
    suite: Suite, tmp_path: Path, model_directory: Path, what: str
) -> None:
    folder = Foreign.make(model_directory, **REFUSED[what]).save(tmp_path / "theirs")
    with pytest.raises(TinsmithError) as refused:
        await uploaded(suite, folder)
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "ADAPTER_UNSUPPORTED")
    assert what in refused.value.message
    await nothing_is_left(suite, tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"an_option_of_tomorrow": True}, "an_option_of_tomorrow"),
        ({"r": 8}, "rank"),
        ({"r": 0}, "configuration"),
        ({"r": "many"}, "configuration"),
        ({"r": 1e999}, "configuration"),
        ({"lora_alpha": float("nan")}, "configuration"),
    ],
)
async def test_a_configuration_that_does_not_fit_is_refused(
    suite: Suite, tmp_path: Path, model_directory: Path, change: dict[str, Any], says: str
) -> None:
    folder = Foreign.make(model_directory, target_modules=["q_proj"]).save(tmp_path / "theirs")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TinsmithError) as refused:
        await uploaded(suite, folder)
    assert refused.value.reason == "ADAPTER_UNSUPPORTED"
    assert says in refused.value.message


async def test_halves_that_are_no_floating_point_numbers_are_refused(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    folder = Foreign.make(model_directory, target_modules=["q_proj"]).save(tmp_path / "theirs")
    halves = tensors(folder)
    for kind in (torch.int8, torch.float8_e4m3fn, torch.complex64):
        odd = {name: value.to(kind) for name, value in halves.items()}
        safetensors.torch.save_file(odd, folder / "adapter_model.safetensors")
        with pytest.raises(TinsmithError) as refused:
            await uploaded(suite, folder)
        assert refused.value.reason == "ADAPTER_UNSUPPORTED"


async def test_a_configuration_of_a_million_brackets_is_refused(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    folder = Foreign.make(model_directory, target_modules=["q_proj"]).save(tmp_path / "theirs")
    (folder / "adapter_config.json").write_text("[" * 1_000_000)
    with pytest.raises(TinsmithError) as refused:
        await uploaded(suite, folder)
    assert refused.value.reason == "ADAPTER_UNSUPPORTED"


@pytest.mark.filterwarnings("ignore")
async def test_a_head_that_was_trained_on_other_weights_is_refused(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    folder = Foreign.make(model_directory, target_modules=["lm_head"]).save(tmp_path / "theirs")
    path = folder / "adapter_model.safetensors"
    stored = safetensors.torch.load_file(path)
    name = next(name for name in stored if ".base_layer." in name)
    safetensors.torch.save_file({**stored, name: stored[name] + 1e-3}, path)
    with pytest.raises(TinsmithError) as refused:
        await uploaded(suite, folder)
    assert refused.value.reason == "ADAPTER_UNSUPPORTED"
    assert name in refused.value.message


async def nothing_is_left(suite: Suite, home: Path) -> None:
    """Neither a checkpoint nor a file of it."""
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=URI))
    assert refused.value.reason == "CHECKPOINT_NOT_FOUND"
    assert not list((home / "checkpoints" / "foreign" / "training").iterdir())
