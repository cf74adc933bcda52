"""Training: ours against PEFT on `transformers`, both in this process, on one thread."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import torch

from tests.benchmarks import model as embedded
from tests.benchmarks.report import Row, paired
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local import causal_model
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import AdamParams, Batch, TrainingCall
from tinsmith_server.trainer.trained_model import Limits, TrainedModel

ROUNDS = 5
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]


def rows() -> list[Row]:
    """Tokens a second of one forward and backward pass and one optimizer step, rank 8 on all matrices and the head."""
    rng = np.random.default_rng(0)
    answers = [prompt + rng.integers(0, 512, 5).tolist() for prompt in embedded.prompts(50) for _ in range(8)]
    different = [rng.integers(0, 512, length).tolist() for length in rng.integers(32, 96, 64)]
    return [_row("50 prompts x 8 answers", answers), _row("64 different sequences of 32 to 96 tokens", different)]


def _row(figure: str, sequences: list[list[int]]) -> Row:
    shape = LoraShape(rank=8, alpha=16.0)
    ours = TrainedModel(causal_model(embedded.load(), name=embedded.NAME), shape, limits=Limits())
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(embedded.load(), config)
    optimizer = torch.optim.AdamW([weight for weight in theirs.parameters() if weight.requires_grad], lr=1e-4)
    tokens = sum(map(len, sequences))
    return paired(
        figure,
        "tokens/s",
        lambda: tokens / _seconds(lambda: _ours(ours, sequences)),
        lambda: tokens / _seconds(lambda: _peft(theirs, optimizer, sequences)),
        rounds=ROUNDS,
        target=1.0,
        lower_is_better=False,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _ours(model: TrainedModel, sequences: list[list[int]]) -> None:
    offsets = np.cumsum([0, *(len(sequence) - 1 for sequence in sequences)])

    def column(values: list[list[int]]) -> Ragged:
        return Ragged(values=np.concatenate([np.array(row, np.int64) for row in values]), offsets=offsets)

    weights = Ragged(values=np.ones(int(offsets[-1]), np.float32), offsets=offsets)
    columns = {"target_tokens": column([row[1:] for row in sequences]), "weights": weights}
    batch = Batch(tokens=column([row[:-1] for row in sequences]), columns=columns)
    model.forward_backward(TrainingCall(batch=batch, loss=CrossEntropy()))
    model.optim_step(AdamParams(learning_rate=1e-4))


def _peft(model: Any, optimizer: Any, sequences: list[list[int]]) -> None:
    """One padded batch; the same sum of losses."""
    longest = max(map(len, sequences))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    logits = model(tokens[:, :-1], attention_mask=mask[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    (losses * mask[:, 1:].flatten()).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
