"""The sampler's peer: `transformers` generate in this process, with a batch as its caller makes it."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Generate:
    """One model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def run(self, prompts: Sequence[NDArray[np.int32]], *, answers: int, tokens: int) -> float:
        """So many answers of exactly so many tokens to each prompt, with logits, as one batch; returns the seconds.

        Prompts of different lengths are padded on the left.
        """
        began = time.perf_counter()
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(ids)
        for number, prompt in enumerate(prompts):
            ids[number, longest - len(prompt) :], mask[number, longest - len(prompt) :] = prompt, 1
        answer = self._model.generate(
            torch.from_numpy(ids).to(self._model.device),
            attention_mask=torch.from_numpy(mask).to(self._model.device),
            do_sample=True,
            num_return_sequences=answers,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            top_k=0,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0,
        )
        answer.sequences.cpu()
        return time.perf_counter() - began

    def run_in_batches(self, prompts: Sequence[NDArray[np.int32]], *, answers: int, tokens: int, rows: int) -> float:
        """The same in batches of at most so many answers."""
        step = max(1, rows // answers)
        parts = [prompts[first : first + step] for first in range(0, len(prompts), step)]
        return sum(self.run(part, answers=answers, tokens=tokens) for part in parts)
