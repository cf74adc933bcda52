"""Calls of the sampler's API, and checkpoints for them to name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM

from tests.sampler.lab import with_peft_adapter
from tinsmith.arrays import ragged
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith_server.storage import SAMPLER, CheckpointDraft, CheckpointStore, CheckpointUri, LoraShape

PARAMS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "ignore_eos", "frequency_penalty",
          "presence_penalty", "logit_bias", "allowed_token_ids")  # fmt: skip
PROMPTS = ([72, 105], [10, 20, 30, 40], [72, 105], [7])


def sample_request(prompts: Sequence[Sequence[int]] | None = PROMPTS, **options: Any) -> pb.SampleRequest:
    """A request of token ids, if any; options are fields of SampleRequest, SamplingParams and ModelRef."""
    params = {name: options.pop(name) for name in PARAMS if name in options}
    uri = options.pop("checkpoint_uri", None)
    model = pb.ModelRef(checkpoint_uri=uri) if uri else pb.ModelRef(base_model=options.pop("base_model", "random"))
    fields = {"prompts": None if prompts is None else ragged(prompts, np.int32), "seeds": [11], **options}
    return pb.SampleRequest(model=model, params=pb.SamplingParams(**{"max_tokens": 8, **params}), **fields)


def bits(response: pb.SampleResponse) -> tuple[bytes, ...]:
    """All that a caller learns of tokens and logprobs."""
    return (
        response.tokens.SerializeToString(deterministic=True),
        response.logprobs.SerializeToString(deterministic=True),
        bytes(response.stop_reasons),
    )


def publish(
    home: Path, model_directory: Path, *, seed: int, name: str = "s", kind: str = SAMPLER, base_model: str = "random"
) -> str:
    """Stores a random adapter of PEFT's as a trainer would; returns its URI."""
    oracle = AutoModelForCausalLM.from_pretrained(model_directory)
    folder = home / f"peft-{name}-{seed}"
    with_peft_adapter(oracle, folder, seed=seed)
    draft = CheckpointDraft(
        uri=CheckpointUri(model_id="model", kind=kind, name=name),
        step=seed,
        base_model=base_model,
        lora=LoraShape(rank=4, alpha=8.0),
    )
    files = {file.name: file.read_bytes() for file in folder.glob("adapter_*")}
    return str(CheckpointStore(home / "checkpoints").publish(draft, files, durable=False, overwrite=True).uri)
