"""Adapters that PEFT wrote, against PEFT."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.sampler.lab import Lab, own_model, prompts_of, random_model, with_peft_adapter
from tests.sampler.test_sampling_against_transformers import EOS, generate_greedy
from tinsmith_server.sampler.adapter import Adapter, read_adapter
from tinsmith_server.sampler.local.hugging_face import HuggingFaceModel
from tinsmith_server.serving.errors import FailedPrecondition

PROMPTS = prompts_of([3, 11, 1, 24, 7])


def read(directory: Path) -> Adapter:
    files = (directory / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    return read_adapter(*(file.read_bytes() for file in files))


@pytest.fixture(params=["qwen3 own", "llama own", "qwen3 transformers"])
def road(request: pytest.FixtureRequest) -> Lab:
    family, way = request.param.split()
    oracle = random_model(family)
    if way == "transformers":
        return Lab(oracle=oracle, model=HuggingFaceModel(random_model(family), name="random"))
    return Lab(oracle=oracle, model=own_model(oracle))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["k_proj", "down_proj"], "lora_alpha": 3},
        {"target_modules": ["lm_head"]},
    ],
    ids=str,
)
def test_answers_with_an_adapter_equal_pefts(road: Lab, tmp_path: Path, config: dict[str, Any]) -> None:
    adapted = with_peft_adapter(road.oracle, tmp_path, seed=1, **config)
    weights = road.model.adapted(read(tmp_path))
    expected = generate_greedy(adapted, PROMPTS, 16, EOS)
    found = road.sample(PROMPTS, weights=weights, temperature=0.0, max_tokens=16)
    assert [row.tolist() for row in found.tokens] == expected
    assert expected != generate_greedy(road.oracle, PROMPTS, 16, EOS), "the adapter should change the answers"


def test_the_base_model_is_untouched_by_its_adapters(road: Lab, tmp_path: Path) -> None:
    before = road.sample(PROMPTS, max_tokens=8)
    with_peft_adapter(road.oracle, tmp_path, seed=1)
    road.sample(PROMPTS, weights=road.model.adapted(read(tmp_path)), max_tokens=8)
    after = road.sample(PROMPTS, max_tokens=8)
    assert before.logprobs.values.tobytes() == after.logprobs.values.tobytes()


def test_an_adapter_costs_what_it_holds_beside_the_base(tmp_path: Path) -> None:
    oracle = random_model("qwen3")
    with_peft_adapter(oracle, tmp_path, seed=1, target_modules=["up_proj"])
    adapter = read(tmp_path)
    matrices = sum(layer.mlp.up_proj.weight.nbytes for layer in oracle.model.layers)
    [gate, up] = (oracle.model.layers[0].mlp.get_parameter(f"{name}_proj.weight") for name in ("gate", "up"))
    padded = 16 * (up.shape[1] + up.shape[0] + gate.shape[0]) * up.itemsize * len(oracle.model.layers)
    assert own_model(oracle).adapted(adapter).extra_bytes == padded, (
        "its halves, beside gate and up, rank 4 padded to 16"
    )
    assert HuggingFaceModel(oracle, name="random").adapted(adapter).extra_bytes == matrices


def test_an_adapter_of_another_model_is_refused(road: Lab, tmp_path: Path) -> None:
    other = random_model("qwen2")
    with_peft_adapter(other, tmp_path, seed=1, target_modules=["o_proj"])
    with pytest.raises(FailedPrecondition, match=r"o_proj is 32x32 in the adapter and 32x64") as caught:
        own_model(random_model("qwen3")).adapted(read(tmp_path))
    assert caught.value.reason == "ADAPTER_MISMATCH"
    with_peft_adapter(random_model("gpt2"), tmp_path, seed=1, target_modules=["c_attn"])
    with pytest.raises(FailedPrecondition) as caught:
        road.model.adapted(read(tmp_path))
    assert caught.value.reason == "ADAPTER_MISMATCH"


def test_a_copy_of_a_base_parameter_must_be_the_bases_own(road: Lab, tmp_path: Path) -> None:
    with_peft_adapter(road.oracle, tmp_path, seed=1)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    norm = road.oracle.model.norm.weight.detach()
    safetensors.torch.save_file(tensors | {"base_model.model.model.norm.weight": norm.clone()}, file)
    road.model.adapted(read(tmp_path))
    safetensors.torch.save_file(tensors | {"base_model.model.model.norm.weight": norm + 1}, file)
    with pytest.raises(FailedPrecondition, match="trained on other weights"):
        road.model.adapted(read(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["embed_tokens"]},
        {"rank_pattern": {"q_proj": 2}},
        {"r": 0},
        {"r": None},
    ],
    ids=str,
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with_peft_adapter(random_model("qwen3"), tmp_path, seed=1)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(FailedPrecondition) as caught:
        read(tmp_path)
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (b"{", b""),
        (b"[]", b""),
        (b"\xff", b""),
        (b'{"peft_type": "LORA"}', b""),
        (b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}', b"no tensors"),
        (
            b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}',
            safetensors.torch.save({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 4)}),
        ),
        (
            b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}',
            safetensors.torch.save({f"base_model.model.lm_head.lora_{half}.weight": torch.zeros(4) for half in "AB"}),
        ),
    ],
)
def test_files_that_are_no_adapter_are_refused(config: bytes, tensors: bytes) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        read_adapter(config, tensors)
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"


def test_weights_that_have_diverged_are_told_apart_from_a_fault(lab: Lab, tmp_path: Path) -> None:
    with_peft_adapter(lab.oracle, tmp_path, seed=1)
    adapter = read(tmp_path)
    adapter.loras["model.layers.0.mlp.up_proj"].b_OR.fill_(np.nan)
    weights = lab.model.adapted(adapter)
    for options in ({}, {"temperature": 0.0}, {"top_k": 3}, {"prompt_logprobs": True}):
        with pytest.raises(FailedPrecondition) as caught:
            lab.sample(PROMPTS, weights=weights, **options)
        assert caught.value.reason == "WEIGHTS_NOT_FINITE"
