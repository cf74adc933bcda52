"""Adapters as PEFT makes them, away from our trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from tests.trainer.calls import ROWS

EPS, LEARNING_RATE = 1e-4, 1e-2
BETAS = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A PEFT model and torch's optimizer of it."""

    model: Any
    optimizer: torch.optim.AdamW

    @classmethod
    def make(cls, base: Path, **config: Any) -> "Foreign":
        """A fresh adapter on the base model in a folder."""
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **config}))
        return cls._of(wrapped)

    @classmethod
    def load(cls, base: Path, folder: Path) -> "Foreign":
        """An adapter from its folder, with a fresh optimizer."""
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        return cls._of(peft.PeftModel.from_pretrained(model, folder, is_trainable=True))

    @classmethod
    def _of(cls, model: Any) -> "Foreign":
        model.eval()  # no dropout, as ours
        trained = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=0.0)
        return cls(model=model, optimizer=optimizer)

    def logprobs(self, rows: Sequence[Sequence[int]] = ROWS) -> list[Tensor]:
        """Of each token + 1, as `calls.batch` has its targets."""
        tensors = [torch.tensor(row) for row in rows]
        mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
        logits = self.model(input_ids=pad_sequence(tensors, batch_first=True), attention_mask=mask).logits
        return [
            torch.log_softmax(logits[place, : len(row)], -1).gather(-1, (row + 1)[:, None])[:, 0]
            for place, row in enumerate(tensors)
        ]

    def train(self, steps: int) -> None:
        """Steps of cross-entropy on `calls.batch()`."""
        for _ in range(steps):
            (-torch.cat(self.logprobs()).sum()).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()

    def save(self, folder: Path) -> Path:
        """As PEFT saves it."""
        self.model.save_pretrained(folder)
        return folder
