"""An embedded model's files, from nothing: the same bytes on the same machine, whatever the process did before."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors.torch import save
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from tinsmith_server.models.embedded.cache import Progress
from tinsmith_server.models.embedded.catalogue import EmbeddedModel
from tinsmith_server.models.embedded.tokenizer import tokenizer_options, train_tokenizer
from tinsmith_server.models.embedded.warm_up import warm_up


def build(model: EmbeddedModel, progress: Progress | None = None) -> Mapping[str, bytes]:
    """The files of a checkpoint directory by name, as `transformers` reads them."""
    tokenizer = train_tokenizer(model.vocabulary_size)
    options = tokenizer_options(model.context_length)
    with _own_torch_state():
        chat = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)  # type: ignore[no-untyped-call]
        trained = warm_up(model, chat, progress)
    return {
        **_model_files(trained),
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json({"tokenizer_class": "PreTrainedTokenizerFast", **options}),
    }


@contextmanager
def _own_torch_state() -> Iterator[None]:
    """One thread, so that sums have one order; float32; gradients. The caller's settings are put back afterwards."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def _model_files(model: Qwen3ForCausalLM) -> Mapping[str, bytes]:
    config = model.config
    ends = {"eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    generation = GenerationConfig(do_sample=True, temperature=1.0, **ends)  # type: ignore[no-untyped-call]
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    del weights["lm_head.weight"]  # tied to the embedding
    return {
        "config.json": _json({**config.to_diff_dict(), "architectures": [type(model).__name__]}),
        "generation_config.json": _json(generation.to_diff_dict()),
        "model.safetensors": save(weights, metadata={"format": "pt"}),
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
