"""What tests of several services build with: a real server of a room, and a small model in the hub's own shape."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tinsmith_server.serving import RoomDefinition, RoomServer

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


@asynccontextmanager
async def serving(definition: RoomDefinition, home: Path, **settings: object) -> AsyncIterator[str]:
    """A room of this process on a free port, ready; yields its address."""
    values = {"address": "127.0.0.1:0", "home": home, "drain_s": 1.0, **settings}
    server = RoomServer(definition, definition.settings.model_validate(values))
    await server.bind()
    try:
        await server.load()
        yield server.address
    finally:
        await server.stop()


def write_random_model(directory: Path, *, hidden: int = 32, layers: int = 2, seed: int = 0) -> Path:
    """A Qwen3 checkpoint with random weights and a byte-level tokenizer with ChatML, as `transformers` writes them."""
    tokenizer = random_tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def random_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=[*SPECIAL]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
