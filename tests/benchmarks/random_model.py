"""Qwen3 models with random weights in the hub's own shape: what a figure costs does not depend on what they say."""

from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from tests.support import CHAT_TEMPLATE, SPECIAL

TOKENS = 2048
"""Of the tokenizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """What a model's configuration leaves open."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    dtype: torch.dtype


SMALL = ModelSize(
    hidden=128, ffn=384, layers=4, heads=4, kv_heads=2, head_size=32, vocabulary=TOKENS, dtype=torch.float32
)
"""The model on which the peers' figures were taken."""
LARGE = ModelSize(
    hidden=1024, ffn=3072, layers=28, heads=16, kv_heads=8, head_size=128, vocabulary=151_936, dtype=torch.bfloat16
)
"""The shape of Qwen3-0.6B: 0.6 billion parameters."""


def write_model(directory: Path, size: ModelSize) -> Path:
    """Writes the checkpoint and its tokenizer; returns the directory."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_size,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    logging.disable_progress_bar()
    Qwen3ForCausalLM(config).to(size.dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, pairs of bytes, and Qwen's special tokens: as many as a small model has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(islice(product(alphabet, alphabet), TOKENS - len(alphabet) - len(SPECIAL)))
    letters = [*alphabet, *(first + second for first, second in pairs)]
    inner = Tokenizer(models.BPE(vocab={text: number for number, text in enumerate(letters)}, merges=pairs))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=[*SPECIAL]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
