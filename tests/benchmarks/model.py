"""The embedded model for benchmarks, from the cache of this machine, and prompts that the demo asks."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tinsmith_server.cli.folders import model_home
from tinsmith_server.models import EMBEDDED_MODELS, BaseModel, find_directory, load_tokenizer

NAME = "tinsmith-tiny"
VOCABULARY = EMBEDDED_MODELS[NAME].vocabulary_size


def embedded_directory() -> Path:
    """Built at the first use, then cached."""
    return find_directory(BaseModel(name=NAME, location=NAME), model_home())


def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(embedded_directory())


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    """Token ids of questions such as "What is 3 + 4?", ready to be answered."""
    numbers = np.random.RandomState(seed).randint(0, 10, (count, 2))
    text: Any = tokenizer()
    chats = [[{"role": "user", "content": f"What is {x} + {y}?"}] for x, y in numbers]
    found: list[list[int]] = text.apply_chat_template(chats, add_generation_prompt=True, return_dict=False)
    return found
