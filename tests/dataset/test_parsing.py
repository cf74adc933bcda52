"""Sampled tokens back to messages."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.dataset.conftest import QWEN_LIKE
from tests.support import random_tokenizer
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.renderer.v1 import ParsedResponse, ParseResponsesRequest
from tinsmith.types.v1 import RaggedTensor, Termination
from tinsmith_server.dataset.renderers.chat_template import ChatTemplate
from tinsmith_server.dataset.renderers.messages import Message, ToolCall
from tinsmith_server.dataset.renderers.messages import Termination as Ended
from tinsmith_server.dataset.renderers.renderer import Renderer
from tinsmith_server.dataset.renderers.role_colon import RoleColon
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.training import TrainOnWhat

STOP, EOS, MALFORMED = (
    Termination.TERMINATION_STOP_SEQUENCE,
    Termination.TERMINATION_EOS,
    Termination.TERMINATION_MALFORMED,
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>'


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return tokens


async def parse(suite: Suite, tokens: list[int], model: str = "qwen", renderer: str = "") -> ParsedResponse:
    request = ParseResponsesRequest(model=model, renderer=renderer, tokens=ragged([tokens], "<i4"))
    return (await suite.renderer.ParseResponses(request)).responses[0]


@pytest.mark.parametrize(
    ("text", "content", "termination"),
    [
        ("9<|im_end|>", "9", STOP),
        ("9", "9", MALFORMED),
        ("", "", MALFORMED),
        ("<|im_end|>", "", STOP),
        ("9<|im_end|>\n<|im_start|>user", "9", MALFORMED),
        ("<think>never closed<|im_end|>", "<think>never closed", STOP),
        ("a < b </think> c<|im_end|>", "a < b </think> c", STOP),
    ],
)
async def test_an_answer_ends_with_its_stop_token(
    suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast, text: str, content: str, termination: Termination
) -> None:
    got = await parse(suite, encode(qwen_tokenizer, text))
    assert (got.message.role, got.message.content, got.termination) == ("assistant", content, termination)


async def test_half_a_character_is_no_error(suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast) -> None:
    got = await parse(suite, encode(qwen_tokenizer, "🙂")[:2])
    assert got.message.content == "\N{REPLACEMENT CHARACTER}"


async def test_thoughts_and_calls_are_told_apart(suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast) -> None:
    got = await parse(suite, encode(qwen_tokenizer, f"<think>\nhm\n</think>\n\nI add.\n{CALL}\n{CALL}<|im_end|>"))
    assert [part.WhichOneof("part") for part in got.message.parts] == ["thinking", "text"]
    assert (got.message.parts[0].thinking, got.message.parts[1].text) == ("hm", "I add.")
    assert [(call.name, json.loads(call.arguments_json)) for call in got.message.tool_calls] == [("add", {"x": 1})] * 2
    assert len({call.id for call in got.message.tool_calls}) == 2


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ('<tool_call>\n{"name": "add"', "missing"),
        ("<tool_call>\nadd(1)\n</tool_call>", "not JSON"),
        ("<tool_call>[1]</tool_call>", "name"),
        ('<tool_call>{"name": 1}</tool_call>', "name"),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "arguments"),
        ("<tool_call>" + "[" * 20_000 + "</tool_call>", "not JSON"),
    ],
)
async def test_bad_calls_are_kept_as_they_are(
    suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast, raw: str, error: str
) -> None:
    got = await parse(suite, encode(qwen_tokenizer, f"text{CALL}{raw}<|im_end|>"))
    assert got.message.content == "text"
    assert [call.name for call in got.message.tool_calls] == ["add"]
    assert [call.raw_text for call in got.message.unparsed_tool_calls] == [raw]
    assert error in got.message.unparsed_tool_calls[0].error
    assert got.termination == STOP


async def test_a_template_without_markup_gives_plain_text(
    suite: Suite, plain_tokenizer: PreTrainedTokenizerFast
) -> None:
    text = f"<think>x</think>{CALL}"
    got = await parse(suite, encode(plain_tokenizer, f"{text}<|im_end|>"), model="plain")
    assert (got.message.content, len(got.message.tool_calls), len(got.message.parts)) == (text, 0, 0)


@pytest.mark.parametrize(
    ("text", "content", "termination"),
    [
        (" 9\n\nUser:", "9", STOP),
        (" 9\n\nUser: ", "9", STOP),
        (" 9\n\nUser", "9\n\nUser", MALFORMED),
        (" 9<|im_end|>", "9", EOS),
        (" 9", "9", MALFORMED),
        ("", "", MALFORMED),
    ],
)
async def test_role_colon_ends_with_the_next_user(
    suite: Suite, plain_tokenizer: PreTrainedTokenizerFast, text: str, content: str, termination: Termination
) -> None:
    got = await parse(suite, encode(plain_tokenizer, text), model="plain", renderer="role_colon")
    assert (got.message.content, got.termination) == (content, termination)


def tokenizer_with(template: str, directory: Path = Path("none")) -> Tokenizer:
    inner = random_tokenizer()
    inner.chat_template = template
    return Tokenizer("test", inner, directory)


def answer_tokens(renderer: Renderer, message: Message) -> list[int]:
    """What training counts of this message, which is what a model would sample."""
    turns = [Message(role="user", content="?"), message]
    [[example]] = renderer.examples([turns], [], TrainOnWhat.LAST_ASSISTANT_MESSAGE)
    return example.tokens[example.weights > 0].tolist()


QWEN = ChatTemplate(tokenizer_with(QWEN_LIKE))
COLON = RoleColon(tokenizer_with(""))

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="<\n"), max_size=20)
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2), max_leaves=4
)
CALLS = st.lists(
    st.tuples(st.text("abc_ä🙂", min_size=1, max_size=5), st.dictionaries(TEXT, JSON_VALUES, max_size=2)),
    max_size=2,
)


@given(content=TEXT, thinking=TEXT.filter(lambda text: text.strip() == text), calls=CALLS)
def test_parsing_undoes_rendering(content: str, thinking: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    message = Message(
        role="assistant",
        content=content,
        thinking=thinking,
        tool_calls=tuple(
            ToolCall(id=f"call_{number}", name=name, arguments_json=json.dumps(arguments, ensure_ascii=False))
            for number, (name, arguments) in enumerate(calls)
        ),
    )
    parsed = QWEN.parse([answer_tokens(QWEN, message)])[0]
    assert (parsed.message, parsed.termination) == (message, Ended.STOP_SEQUENCE)


@given(content=TEXT.map(str.strip))
def test_parsing_undoes_role_colon(content: str) -> None:
    message = Message(role="assistant", content=content)
    parsed = COLON.parse([answer_tokens(COLON, message)])[0]
    assert (parsed.message, parsed.termination) == (message, Ended.STOP_SEQUENCE)


@given(tokens=st.lists(st.integers(0, 262), max_size=30))
def test_no_tokens_break_the_parser(tokens: list[int]) -> None:
    for renderer in (QWEN, COLON):
        assert renderer.parse([tokens])[0].message.role == "assistant"


def test_an_answer_inside_of_opened_thoughts() -> None:
    """Templates of thinking models open the block in the prompt, so that the answer only closes it."""
    opened = QWEN_LIKE.replace(
        "'<|im_start|>assistant\\n' }}{%- endif %}", "'<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
    )
    renderer = ChatTemplate(tokenizer_with(opened))
    tokens = encode(random_tokenizer(), "hm\n</think>\n\n9<|im_end|>")
    parsed = renderer.parse([tokens])[0]
    assert (parsed.message.thinking, parsed.message.content) == ("hm", "9")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (ragged([[-1]], "<i4"), "TOKEN_OUT_OF_VOCABULARY"),
        (ragged([[10**6]], "<i4"), "TOKEN_OUT_OF_VOCABULARY"),
        (ragged([[1]], "<i8"), "BAD_TENSOR"),
        (ragged([[[1, 2]]], "<i4"), "BAD_TENSOR"),
        (RaggedTensor(dtype=2, data=b"123"), "BAD_TENSOR"),
        (RaggedTensor(dtype=2, data=b"1234", offsets=b"1"), "BAD_TENSOR"),
    ],
)
async def test_what_is_no_tokens_is_refused(suite: Suite, tensor: RaggedTensor, reason: str) -> None:
    with pytest.raises(TinsmithError) as error:
        await suite.renderer.ParseResponses(ParseResponsesRequest(model="plain", tokens=tensor))
    assert (error.value.code.name, error.value.reason) == ("INVALID_ARGUMENT", reason)
