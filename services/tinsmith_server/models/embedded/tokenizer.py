"""The embedded models' tokenizer: byte-level BPE in Qwen's manner, trained on what the models are warmed up on."""

from collections.abc import Iterator
from importlib import resources
from itertools import islice
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tinsmith_server.models.embedded.conversations import WORDS, batches

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
_MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""Tokens of their own that decoding keeps even where it leaves out special ones, as Qwen has it."""
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word with the character before it
    r"|\p{N}"  # one digit, so that numbers have one spelling
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEXT_BATCHES = 40


def train_tokenizer(vocabulary_size: int) -> Tokenizer:
    """A tokenizer with exactly `vocabulary_size` tokens, always the same; ValueError when the text has too few."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(_SPECIAL) - len(_MARKUP),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in _MARKUP])
    if tokenizer.get_vocab_size() != vocabulary_size:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, not {vocabulary_size}")
    return tokenizer


def tokenizer_options(context_length: int) -> dict[str, Any]:
    """What `transformers` must know beside the tokenizer itself: tokenizer_config.json."""
    return {
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START_OF_TURN],
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": resources.files(__package__).joinpath("chat_template.jinja").read_text(),
    }


def _text() -> Iterator[str]:
    """What the models read: prompts, words, the roles of ChatML. What they answer is left to shorter tokens."""
    for conversations in islice(batches(seed=0), _TEXT_BATCHES):
        for conversation in conversations:
            yield from (message.content for message in conversation.prompt)
            yield from ("user", "assistant", "system")
    yield from (f"{word} {word}" for word in WORDS)
