"""The embedded models' tokenizer and chat template keep Qwen's conventions."""

import json
import unicodedata
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError

from tinsmith_server.models import load_tokenizer
from tinsmith_server.models.embedded.conversations import batches
from tinsmith_server.models.embedded.examples import Renderer, padded_groups
from tinsmith_server.models.embedded.tokenizer import train_tokenizer

TRAINED = train_tokenizer(512)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
ADD = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def words(brief_directory: Path) -> Any:
    return load_tokenizer(brief_directory)


def test_training_always_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(512).to_str() == train_tokenizer(512).to_str()


def test_there_are_not_more_tokens_than_the_text_has() -> None:
    with pytest.raises(ValueError, match="not 100000"):
        train_tokenizer(100_000)


@given(text=st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TRAINED.decode(TRAINED.encode(text).ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_are_one_token(token: str, words: Any) -> None:
    assert len(words.encode(f"a{token}b")) == 3


def test_only_the_marks_of_turns_vanish_from_decoded_text(words: Any) -> None:
    ids = words.encode("<|im_start|><think>a</think><tool_call>b</tool_call><|im_end|><|endoftext|>")
    assert words.decode(ids, skip_special_tokens=True) == "<think>a</think><tool_call>b</tool_call>"


def test_turns_end_with_im_end(words: Any) -> None:
    assert (words.eos_token, words.pad_token, words.bos_token) == ("<|im_end|>", "<|endoftext|>", None)


def test_a_number_is_its_digits(words: Any) -> None:
    assert [words.decode([token]) for token in words.encode("1024 + 7")] == ["1", "0", "2", "4", " +", " ", "7"]


def test_a_conversation_is_chatml(words: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 4 + 5?"},
        {"role": "assistant", "content": "9"},
        {"role": "user", "content": "What is 1 + 2?"},
    ]
    assert words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 4 + 5?<|im_end|>\n"
        "<|im_start|>assistant\n9<|im_end|>\n<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_prompt_is_a_prefix_of_the_whole_conversation(words: Any) -> None:
    for conversations in islice(batches(seed=3), 2):
        for conversation in conversations:
            turns = [{"role": turn.role, "content": turn.content} for turn in conversation.prompt]
            whole = words.apply_chat_template(
                [*turns, {"role": "assistant", "content": conversation.answer}], tokenize=False
            )
            prompt = words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            assert whole == f"{prompt}{conversation.answer}<|im_end|>\n"


def test_thoughts_are_shown_in_the_turn_they_belong_to_and_dropped_later(words: Any) -> None:
    apart = {"role": "assistant", "content": "9", "reasoning_content": "four and five"}
    inside = {"role": "assistant", "content": "<think>\nfour and five\n</think>\n\n9"}
    question, next_question = ({"role": "user", "content": text} for text in ("4 + 5?", "And 1 + 2?"))
    for answer in (apart, inside):
        shown = words.apply_chat_template([question, answer], tokenize=False)
        dropped = words.apply_chat_template([question, answer, next_question], tokenize=False)
        assert shown.endswith("<|im_start|>assistant\n<think>\nfour and five\n</think>\n\n9<|im_end|>\n")
        assert "<|im_start|>assistant\n9<|im_end|>\n<|im_start|>user\nAnd" in dropped


def test_thinking_can_be_switched_off(words: Any) -> None:
    messages = [{"role": "user", "content": "4 + 5?"}]
    prompt = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize("arguments", [{"a": 4, "b": 5}, '{"a": 4, "b": 5}'])
def test_tools_calls_and_results_have_qwen_s_form(arguments: object, words: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "4 + 5?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "9"},
        {"role": "tool", "content": "9"},
    ]
    text = words.apply_chat_template(messages, tools=[ADD], tokenize=False)
    [signature] = text.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert json.loads(signature) == ADD
    one = '<tool_call>\n{"name": "add", "arguments": {"a": 4, "b": 5}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{one}\n{one}<|im_end|>\n" in text
    result = "<tool_response>\n9\n</tool_response>"
    assert text.endswith(f"<|im_start|>user\n{result}\n{result}<|im_end|>\n")


@pytest.mark.parametrize("turn", [{"role": "oracle", "content": "9"}, {"role": "user", "content": [{"type": "image"}]}])
def test_what_the_template_can_not_show_is_refused(turn: dict[str, object], words: Any) -> None:
    for turns in ([turn], [{"role": "user", "content": "4 + 5?"}, turn]):
        with pytest.raises(TemplateError, match=r"unknown role oracle|content must be text"):
            words.apply_chat_template(turns, tokenize=False)


def test_prompt_tokens_count_a_tenth_and_padding_nothing(words: Any) -> None:
    conversations = next(batches(seed=0))
    rows = Renderer(words).examples(conversations)
    weights = {round(float(weight), 3) for batch in padded_groups(rows) for weight in batch.weights_BT.flatten()}
    counted = sum(int((batch.weights_BT > 0).sum()) for batch in padded_groups(rows))
    assert weights == {0.0, 0.1, 1.0}
    assert counted == sum(len(row.tokens) for row in rows)
    for row, conversation in zip(rows, conversations, strict=True):
        assert words.decode(row.tokens[row.prompt_length :]) == f"{conversation.answer}<|im_end|>"
