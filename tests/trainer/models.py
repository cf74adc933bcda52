"""Small random models and batches, and the training step of PEFT and torch that ours is compared with."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import Loss
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import Batch

VOCABULARY = 97
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def base_model(family: str) -> PreTrainedModel:
    """A model with random weights, large enough that attention is not uniform."""
    torch.manual_seed(0)
    made: PreTrainedModel = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_COMMON, head_dim=16, tie_word_embeddings=True)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_COMMON, tie_word_embeddings=False)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**_COMMON)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256)
        ),
    }[family]()
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return made.eval().requires_grad_(False)


def trained(family: str, *, rank: int = 4, micro_batch_tokens: int = 4096, **shape: Any) -> TrainedModel:
    """A fresh model of ours."""
    base = causal_model(base_model(family), name=family)
    wanted = LoraShape(**{"rank": rank, "alpha": 8.0, "seed": 3, **shape})
    return TrainedModel(base, wanted, limits=Limits(micro_batch_tokens=micro_batch_tokens))


def batch(loss: Loss, *, seed: int = 0, targets_a_token: int | None = None) -> Batch:
    """Twelve data: groups with a common beginning, two equal ones, one that is the beginning of another."""
    chance = np.random.default_rng(seed)
    prompts = [chance.integers(0, VOCABULARY, length) for length in (9, 3, 14)]
    rows = [np.concatenate([prompts[i % 3], chance.integers(0, VOCABULARY, 1 + i)]) for i in range(9)]
    rows += [rows[4], rows[7][:6], chance.integers(0, VOCABULARY, 40)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    shape = (offsets[-1],) if targets_a_token is None else (offsets[-1], targets_a_token)
    columns: dict[str, Any] = {"target_tokens": chance.integers(0, VOCABULARY, shape)}
    for name, kind in loss.columns.items():
        if kind is float:
            columns[name] = chance.normal(size=shape).astype(np.float32)
    if "logprobs" in columns:
        columns["logprobs"] = (columns["logprobs"] * 0.3 - 4.6).astype(np.float32)
    factor = columns["advantages" if "advantages" in columns else "weights"]
    factor[chance.random(shape) < 0.4] = 0  # tokens that do not count
    factor[offsets[2] : offsets[3]] = 0  # and a whole datum
    return Batch(
        tokens=Ragged(values=np.concatenate(rows), offsets=offsets),
        columns={name: Ragged(values=values, offsets=offsets) for name, values in columns.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Peft:
    """The same model with PEFT's layers and torch's optimizer."""

    model: Any
    optimizer: torch.optim.AdamW

    @classmethod
    def of(cls, family: str, ours: TrainedModel, *, learning_rate: float = 1e-3, weight_decay: float = 0.01) -> "Peft":
        """PEFT's model with the adapter that ours has now, read from our files."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in ours.adapter_files().items():
                (Path(folder) / name).write_bytes(content)
            model = peft.PeftModel.from_pretrained(base_model(family), folder, is_trainable=True)
        model.eval()
        optimizer = torch.optim.AdamW(
            cls.parameters(model).values(), lr=learning_rate, betas=(0.9, 0.95), eps=1e-4, weight_decay=weight_decay
        )
        return cls(model=model, optimizer=optimizer)

    @staticmethod
    def parameters(model: Any) -> Mapping[str, Tensor]:
        """Trainable parameters by the name that a file of PEFT gives them."""
        return {name.replace(".default", ""): value for name, value in model.named_parameters() if value.requires_grad}

    def forward_backward(self, data: Batch, loss: Loss) -> tuple[float, Tensor]:
        """The loss and the logprobs of all targets; gradients are added to the parameters'."""
        lengths = data.tokens.lengths.tolist()
        rows = torch.from_numpy(data.tokens.values).split(lengths)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        logits = self.model(input_ids=pad_sequence(rows, batch_first=True), attention_mask=mask).logits
        logprobs = torch.log_softmax(logits, -1)[mask.bool()]
        targets = torch.from_numpy(data.columns["target_tokens"].values)
        picked = logprobs.gather(-1, targets.view(len(targets), -1)).view(targets.shape)
        columns = {name: torch.from_numpy(column.values) for name, column in data.columns.items()}
        value = formula(loss, picked, columns, lengths)
        value.backward()
        return float(value.detach()), picked.detach()

    def step(self) -> None:
        """One optimizer step; the gradients are cleared."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def formula(loss: Any, p: Tensor, columns: Mapping[str, Tensor], lengths: Sequence[int]) -> Tensor:
    """The formulas of the contract, written a second time for autograd; `lengths` are those of the sequences."""
    if loss.name == "cross_entropy":
        return -(columns["weights"] * p).sum()
    q, advantages = columns["logprobs"], columns["advantages"]
    if loss.name == "importance_sampling":
        return -((p - q).exp() * advantages).sum()
    if loss.name == "dro":
        sampled = ~((advantages == 0) & (q == 0))
        return -(p * advantages - loss.beta * 0.5 * (p - q) ** 2)[sampled].sum()
    if loss.name == "cispo":
        return -(_bounded((p - q).exp(), loss).data * p * advantages).sum()
    ratio = (p - q).exp() if loss.name == "ppo" else _sequence_ratios(p - q, advantages, lengths)
    unclipped, clipped = ratio * advantages, _bounded(ratio, loss) * advantages
    return -torch.where(unclipped < clipped, unclipped, clipped).sum()


def _bounded(ratio: Tensor, loss: Any) -> Tensor:
    return torch.where(ratio < loss.clip_low, loss.clip_low, torch.where(ratio > loss.clip_high, loss.clip_high, ratio))


def _sequence_ratios(changes: Tensor, advantages: Tensor, lengths: Sequence[int]) -> Tensor:
    """For each token the geometric mean of its sequence's ratios, over the tokens with an advantage."""
    parts = []
    for change, advantage in zip(changes.split(list(lengths)), advantages.split(list(lengths)), strict=True):
        chosen = change[advantage != 0]
        mean = chosen.mean() if len(chosen) else change.sum() * 0
        parts.append(mean.exp().expand(len(change)))
    return torch.cat(parts)
