"""Reinforcement learning of single-digit addition in one process, on PEFT's LoRA: what the suite must match.

importance_sampling with A_i = R_i - mean(R of the group); groups with one reward are dropped. R = correct + 0.1
(ended - 1): correct when the last integer of the answer is the sum, ended when the turn's end came within five tokens.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.models import load_causal_lm, load_tokenizer

GROUPS, SIZE, ANSWER_TOKENS = 50, 8, 5
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
EXAMPLE = [{"role": "user", "content": "What is 4 + 5?"}, {"role": "assistant", "content": "9"}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """Answers to prompts of one length; an answer's tokens after its end are masked."""

    tokens_BT: Tensor
    """int64, prompts and answers."""
    logprobs_BA: Tensor
    mask_BA: Tensor


def correct_by_step(directory: Path, *, seed: int, steps: int = 40) -> list[float]:
    """The share of correct answers at each step."""
    tokenizer: Any = load_tokenizer(directory)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS)
    model: Any = peft.get_peft_model(load_causal_lm(directory), config)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(weights, lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(steps):
        problems_G2 = random.integers(0, 10, (GROUPS, 2))
        rollouts = _sample(model, _prompts(tokenizer, problems_G2), tokenizer.eos_token_id, generator)
        correct_GS, ended_GS = _grade(tokenizer, rollouts, problems_G2)
        rewards_GS = correct_GS + 0.1 * (ended_GS - 1)
        _train(model, rollouts, rewards_GS - rewards_GS.mean(1, keepdims=True))
        adam.step()
        adam.zero_grad()
        curve.append(float(correct_GS.mean()))
    return curve


def _prompts(tokenizer: Any, problems_G2: NDArray[np.int64]) -> Tensor:
    conversations = [[*EXAMPLE, {"role": "user", "content": f"What is {a} + {b}?"}] for a, b in problems_G2]
    texts = [
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in conversations
    ]
    return torch.tensor([tokenizer.encode(text) for text in texts])


@torch.no_grad()
def _sample(model: Any, prompts_GP: Tensor, end: int, generator: torch.Generator) -> Rollouts:
    tokens_BT = prompts_GP.repeat_interleave(SIZE, 0)
    logprobs, masks = [], []
    alive_B = torch.ones(len(tokens_BT), dtype=torch.bool)
    out = model(input_ids=tokens_BT, use_cache=True)
    for _ in range(ANSWER_TOKENS):
        logprobs_BV = out.logits[:, -1].log_softmax(-1)
        token_B1 = torch.multinomial(logprobs_BV.exp(), 1, generator=generator)
        logprobs.append(logprobs_BV.gather(1, token_B1))
        masks.append(alive_B)
        tokens_BT = torch.cat([tokens_BT, token_B1], dim=1)
        alive_B = alive_B & (token_B1[:, 0] != end)
        out = model(input_ids=token_B1, past_key_values=out.past_key_values, use_cache=True)
    return Rollouts(tokens_BT=tokens_BT, logprobs_BA=torch.cat(logprobs, 1), mask_BA=torch.stack(masks, 1).float())


def _grade(
    tokenizer: Any, rollouts: Rollouts, problems_G2: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 [group, member]: which answers are correct, which have ended."""
    correct, ended = [], []
    sums_B = problems_G2.sum(1).repeat(SIZE)
    for tokens_A, mask_A, total in zip(rollouts.tokens_BT[:, -ANSWER_TOKENS:], rollouts.mask_BA, sums_B, strict=True):
        answer = tokens_A[mask_A.bool()].tolist()
        numbers = re.findall(r"-?\d+", tokenizer.decode(answer, skip_special_tokens=True))
        correct.append(bool(numbers) and int(numbers[-1]) == total)
        ended.append(answer[-1] == tokenizer.eos_token_id)
    shape = (len(problems_G2), SIZE)
    return np.reshape(correct, shape).astype(np.float64), np.reshape(ended, shape).astype(np.float64)


def _train(model: Any, rollouts: Rollouts, advantages_GS: NDArray[np.float64]) -> None:
    """Adds the gradient of -sum(ratio * A) over the answers' tokens."""
    kept_B = torch.from_numpy((np.abs(advantages_GS).max(1) > 1e-9).repeat(SIZE))
    if not kept_B.any():
        return
    tokens_BT = rollouts.tokens_BT[kept_B]
    logits_BAV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits[:, -ANSWER_TOKENS:]
    targets_BA1 = tokens_BT[:, -ANSWER_TOKENS:, None]
    logprobs_BA = logits_BAV.log_softmax(-1).gather(2, targets_BA1)[..., 0]
    ratio_BA = (logprobs_BA - rollouts.logprobs_BA[kept_B]).exp()
    advantages_B1 = torch.from_numpy(advantages_GS).float().reshape(-1, 1)[kept_B]
    torch.autograd.backward(-(ratio_BA * advantages_B1 * rollouts.mask_BA[kept_B]).sum())
