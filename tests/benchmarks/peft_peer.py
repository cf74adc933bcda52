"""The trainer's peer: PEFT's LoRA on a `transformers` model, torch's AdamW, a plain loop in this process."""

import time
import warnings
from collections.abc import Sequence
from typing import Any

import peft
import torch

from tests.benchmarks.examples import Examples, Padded, policy_loss

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
RANK, ALPHA = 8, 16


class PeftModel:
    """One base model with one or more adapters, rank 8 on all matrices and the head."""

    def __init__(self, base: Any, *, adapters: int = 1) -> None:
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
        names = [f"adapter{number}" for number in range(adapters)]
        with warnings.catch_warnings(action="ignore"):  # that a tied head is adapted: as ours does
            self._model = peft.get_peft_model(base, config, adapter_name=names[0])
            for name in names[1:]:
                self._model.add_adapter(name, config)
        self._device = base.device
        self._optimizers = {name: self._optimizer(name) for name in names}
        self._current = names[0]

    def _optimizer(self, adapter: str) -> torch.optim.AdamW:
        own = [value for name, value in self._model.named_parameters() if f".{adapter}." in name]
        return torch.optim.AdamW(own, lr=1e-4)

    def step(self, micro_batches: Sequence[Examples], *, adapter: int = 0, judged: int = 0) -> float:
        """Gradients of the micro-batches and one optimizer step; returns the seconds.

        With `judged` the head only reads that many tokens at the end of each row: for rows of one length.
        """
        began = time.perf_counter()
        name = f"adapter{adapter}"
        if name != self._current:
            self._model.set_adapter(name)
            self._current = name
        for examples in micro_batches:
            self._loss(examples, judged).backward()
        self._optimizers[name].step()
        self._optimizers[name].zero_grad()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def _loss(self, examples: Examples, judged: int) -> torch.Tensor:
        batch = Padded.of(examples, self._device)
        logits = self._model(batch.tokens, attention_mask=batch.mask, use_cache=False, logits_to_keep=judged).logits
        targets, factor = batch.targets[:, -judged:], batch.factor[:, -judged:]
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), reduction="none"
        ).view(targets.shape)
        if examples.advantages is None:
            return (losses * factor).sum()
        return policy_loss(-losses, factor)
