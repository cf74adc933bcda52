"""Conversations to tokens, token for token against `apply_chat_template`."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support import random_tokenizer
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.renderer.v1 import (
    ListRenderersRequest,
    RenderPromptsRequest,
    RenderTrainingRequest,
    RenderTrainingResponse,
    TrainOnWhat,
)
from tinsmith.types.v1 import ContentPart, Conversation, MediaPart, Message, ToolCall, ToolSpec
from tinsmith_server.dataset.renderers import wire
from tinsmith_server.dataset.renderers.chat_template import ChatTemplate
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.training import TrainOnWhat as TrainMode

WEATHER = ToolSpec(name="weather", description="tells it", parameters_json='{"type": "object", "properties": {}}')
WEATHER_TEMPLATE = {
    "type": "function",
    "function": {"name": "weather", "description": "tells it", "parameters": {"type": "object", "properties": {}}},
}

Turn = dict[str, Any]
SHORT: list[Turn] = [{"role": "user", "content": "Hi ä🙂"}, {"role": "assistant", "content": "Hello"}]
LONG: list[Turn] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4", "reasoning_content": "two and two"},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "6", "reasoning_content": "three and three"},
]
TOOLS: list[Turn] = [
    {"role": "user", "content": "Rain?"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}],
    },
    {"role": "tool", "content": "dry"},
    {"role": "assistant", "content": "No rain."},
]


def message(turn: Turn) -> Message:
    calls = [
        ToolCall(name=call["function"]["name"], arguments_json=json.dumps(call["function"]["arguments"]))
        for call in turn.get("tool_calls", [])
    ]
    made = Message(role=turn["role"], tool_calls=calls)
    if turn.get("reasoning_content"):
        made.parts.extend([ContentPart(thinking=turn["reasoning_content"]), ContentPart(text=turn["content"])])
    else:
        made.content = turn["content"]
    return made


def conversation(turns: Sequence[Turn], trainable: Sequence[int] = ()) -> Conversation:
    made = Conversation(messages=map(message, turns))
    for number in trainable:
        made.messages[number].trainable = True
    return made


@pytest.fixture(params=["plain", "qwen"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(
    model: str, plain_tokenizer: PreTrainedTokenizerFast, qwen_tokenizer: PreTrainedTokenizerFast
) -> PreTrainedTokenizerFast:
    return {"plain": plain_tokenizer, "qwen": qwen_tokenizer}[model]


def template(tokenizer: PreTrainedTokenizerFast, turns: Sequence[Turn], **options: Any) -> list[int]:
    tokens: list[int] = tokenizer.apply_chat_template(list(turns), return_dict=False, **options)
    return tokens


async def training(
    suite: Suite, model: str, turns: Sequence[Turn], mode: str, **options: Any
) -> RenderTrainingResponse:
    request = RenderTrainingRequest(
        model=model,
        conversations=[conversation(turns, options.pop("trainable", ()))],
        train_on_what=TrainOnWhat.Value(f"TRAIN_ON_WHAT_{mode}") if mode else 0,
        **options,
    )
    return await suite.renderer.RenderTraining(request)


def counted(tokenizer: PreTrainedTokenizerFast, response: RenderTrainingResponse) -> list[list[str]]:
    """Of each example the runs of text that count."""
    found = []
    for tokens, weights in zip(rows(response.tokens), rows(response.weights), strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], weights, [0]])))
        found.append([tokenizer.decode(tokens[start:stop]) for start, stop in edges.reshape(-1, 2)])
    return found


@pytest.mark.parametrize("turns", [SHORT[:1], LONG[:4], TOOLS[:1], TOOLS[:3]], ids=["short", "long", "tools", "call"])
async def test_prompts_are_those_of_the_template(
    suite: Suite, model: str, tokenizer: PreTrainedTokenizerFast, turns: list[Turn]
) -> None:
    request = RenderPromptsRequest(model=model, conversations=[conversation(turns)] * 2, tools=[WEATHER])
    answer = await suite.renderer.RenderPrompts(request)
    oracle = template(tokenizer, turns, tools=[WEATHER_TEMPLATE], add_generation_prompt=True)
    assert [row.tolist() for row in rows(answer.tokens)] == [oracle] * 2
    assert list(answer.stop.token_ids) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


async def test_an_answer_begins_with_the_prefill(suite: Suite, model: str, tokenizer: PreTrainedTokenizerFast) -> None:
    request = RenderPromptsRequest(model=model, conversations=[conversation(SHORT[:1])], prefill="The answer ")
    answer = await suite.renderer.RenderPrompts(request)
    begun = [*SHORT[:1], {"role": "assistant", "content": "The answer "}]
    if model == "plain":  # the other one puts a think block before it
        assert rows(answer.tokens)[0].tolist() == template(tokenizer, begun, continue_final_message=True)
    assert tokenizer.decode(rows(answer.tokens)[0]).endswith("<|im_start|>assistant\nThe answer ")


@pytest.mark.parametrize("turns", [SHORT, TOOLS], ids=["short", "tools"])
async def test_training_tokens_are_those_of_the_template(
    suite: Suite, model: str, tokenizer: PreTrainedTokenizerFast, turns: list[Turn]
) -> None:
    answer = await training(suite, model, turns, "ALL_ASSISTANT_MESSAGES", tools=[WEATHER])
    oracle = template(tokenizer, turns, tools=[WEATHER_TEMPLATE])
    assert rows(answer.tokens)[-1].tolist() == oracle


async def test_examples_begin_with_the_prompt(suite: Suite, model: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """What is trained is what sampling would continue: no weight on the prompt, all on the answer up to its end."""
    answer = await training(suite, model, LONG, "LAST_ASSISTANT_MESSAGE")
    prompt = template(tokenizer, LONG[:-1], add_generation_prompt=True)
    tokens, weights = rows(answer.tokens)[0].tolist(), rows(answer.weights)[0]
    assert tokens[: len(prompt)] == prompt
    assert not weights[: len(prompt)].any()
    end = len(prompt) + tokens[len(prompt) :].index(tokenizer.convert_tokens_to_ids("<|im_end|>")) + 1
    assert weights[len(prompt) : end].all()
    assert not weights[end:].any()


PLAIN_COUNTS = {
    "LAST_ASSISTANT_MESSAGE": [["6<|im_end|>"]],
    "LAST_ASSISTANT_TURN": [["6<|im_end|>"]],
    "ALL_ASSISTANT_MESSAGES": [["4<|im_end|>", "6<|im_end|>"]],
    "": [["4<|im_end|>", "6<|im_end|>"]],
    "ALL_USER_AND_SYSTEM_MESSAGES": [["Be brief.<|im_end|>", "2 + 2?<|im_end|>", "And 3 + 3?<|im_end|>"]],
    "ALL_MESSAGES": [["Be brief.<|im_end|>", "2 + 2?<|im_end|>", "4<|im_end|>", "And 3 + 3?<|im_end|>", "6<|im_end|>"]],
    "CUSTOMIZED": [["2 + 2?<|im_end|>", "6<|im_end|>"]],
}


@pytest.mark.parametrize("mode", PLAIN_COUNTS)
async def test_what_counts(suite: Suite, plain_tokenizer: PreTrainedTokenizerFast, mode: str) -> None:
    """D-18."""
    answer = await training(suite, "plain", LONG, mode, trainable=(1, 4))
    assert counted(plain_tokenizer, answer) == PLAIN_COUNTS[mode]
    assert rows(answer.tokens)[0].tolist() == template(plain_tokenizer, LONG)


async def test_all_tokens_count(suite: Suite, model: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """D-18."""
    answer = await training(suite, model, LONG, "ALL_TOKENS")
    assert rows(answer.tokens)[0].tolist() == template(tokenizer, LONG)
    assert rows(answer.weights)[0].all()


async def test_turns_whose_text_changes_become_examples_of_their_own(
    suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast
) -> None:
    """The template drops former thoughts, so the first answer's own text is no prefix of the whole."""
    answer = await training(suite, "qwen", LONG, "ALL_ASSISTANT_MESSAGES")
    assert [row.tolist() for row in rows(answer.tokens)] == [
        template(qwen_tokenizer, LONG[:3]),
        template(qwen_tokenizer, LONG),
    ]
    assert list(answer.conversation_index) == [0, 0]
    assert counted(qwen_tokenizer, answer) == [
        ["<think>\ntwo and two\n</think>\n\n4<|im_end|>"],
        ["<think>\nthree and three\n</think>\n\n6<|im_end|>"],
    ]


async def test_turns_whose_text_is_stable_share_an_example(
    suite: Suite, qwen_tokenizer: PreTrainedTokenizerFast
) -> None:
    calls = [dict(TOOLS[1], reasoning_content="look"), TOOLS[2]]
    turns = [TOOLS[0], *calls, dict(TOOLS[3], reasoning_content="done")]
    answer = await training(suite, "qwen", turns, "LAST_ASSISTANT_TURN")
    assert counted(qwen_tokenizer, answer) == [
        [
            "<think>\nlook\n</think>\n\nI look.\n<tool_call>\n"
            '{"name": "weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call><|im_end|>',
            "<think>\ndone\n</think>\n\nNo rain.<|im_end|>",
        ]
    ]


async def test_a_conversation_without_what_is_trained_counts_nothing(suite: Suite) -> None:
    answer = await training(suite, "plain", SHORT[:1], "ALL_ASSISTANT_MESSAGES")
    assert [row.any() for row in rows(answer.weights)] == [False]


async def test_role_colon_is_written_piece_by_piece(suite: Suite, plain_tokenizer: PreTrainedTokenizerFast) -> None:
    def encode(*pieces: str) -> list[int]:
        return [token for piece in pieces for token in plain_tokenizer.encode(piece, add_special_tokens=False)]

    request = RenderPromptsRequest(model="plain", renderer="role_colon", conversations=[conversation(SHORT[:1])])
    answer = await suite.renderer.RenderPrompts(request)
    assert rows(answer.tokens)[0].tolist() == encode("User:", " Hi ä🙂\n\n", "Assistant:")
    assert list(answer.stop.strings) == ["\n\nUser:"]
    trained = await training(suite, "plain", SHORT, "", renderer="role_colon")
    assert rows(trained.tokens)[0].tolist() == encode("User:", " Hi ä🙂\n\n", "Assistant:", " Hello\n\n", "User:")
    assert counted(plain_tokenizer, trained) == [[" Hello\n\nUser:"]]
    every = await training(suite, "plain", SHORT, "ALL_TOKENS", renderer="role_colon")
    assert rows(every.weights)[0].all()


async def test_renderers_say_what_they_can(suite: Suite) -> None:
    listed = {}
    for model in ("plain", "qwen"):
        answer = await suite.renderer.ListRenderers(ListRenderersRequest(model=model))
        listed[model] = {info.name: (info.has_extension_property, info.supports_tools) for info in answer.renderers}
    assert listed["plain"] == {"chat_template": (True, False), "role_colon": (True, False)}
    assert listed["qwen"] == {"chat_template": (False, True), "role_colon": (True, False)}
    names = await suite.renderer.ListRenderers(ListRenderersRequest())
    assert [info.name for info in names.renderers] == ["chat_template", "role_colon"]


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({"model": "nope"}, "NOT_FOUND", "TOKENIZER_NOT_FOUND"),
        ({"renderer": "nope"}, "NOT_FOUND", "RENDERER_NOT_FOUND"),
        ({"conversations": [Conversation()]}, "INVALID_ARGUMENT", "EMPTY_CONVERSATION"),
        ({"renderer": "role_colon", "tools": [WEATHER]}, "INVALID_ARGUMENT", "TOOLS_UNSUPPORTED"),
        ({"renderer": "role_colon", "conversations": [conversation(LONG)]}, "INVALID_ARGUMENT", "TOOLS_UNSUPPORTED"),
        ({"tools": [ToolSpec(name="x", parameters_json="[]")]}, "INVALID_ARGUMENT", "BAD_JSON"),
        (
            {"conversations": [Conversation(messages=[Message(role="user", parts=[ContentPart(image=MediaPart())])])]},
            "FAILED_PRECONDITION",
            "MODALITY_UNSUPPORTED",
        ),
    ],
)
async def test_what_can_not_be_rendered_is_refused(suite: Suite, changes: Turn, code: str, reason: str) -> None:
    request = RenderPromptsRequest(**{"model": "plain", "conversations": [conversation(SHORT)], **changes})
    with pytest.raises(TinsmithError) as error:
        await suite.renderer.RenderPrompts(request)
    assert (error.value.code.name, error.value.reason) == (code, reason)


async def test_the_last_message_must_be_the_assistants(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await training(suite, "plain", SHORT[:1], "LAST_ASSISTANT_MESSAGE")
    assert error.value.reason == "LAST_MESSAGE_NOT_ASSISTANT"


@pytest.mark.parametrize("turns", [SHORT, LONG, TOOLS], ids=["short", "long", "tools"])
def test_the_template_of_the_embedded_models(turns: list[Turn]) -> None:
    inner = random_tokenizer()
    inner.chat_template = resources.files("tinsmith_server.models.embedded").joinpath("chat_template.jinja").read_text()
    renderer = ChatTemplate(Tokenizer("embedded", inner, Path("none")))
    messages = [wire.conversation("turns", conversation(turns))]
    tools = wire.tools([WEATHER])
    [examples] = renderer.examples(messages, tools, TrainMode.ALL_ASSISTANT_MESSAGES)
    assert examples[-1].tokens.tolist() == template(inner, turns, tools=[WEATHER_TEMPLATE])
    [prompt] = renderer.prompts([messages[0][:-1]], tools, "")
    assert prompt == template(inner, turns[:-1], tools=[WEATHER_TEMPLATE], add_generation_prompt=True)
    parsed = renderer.parse([examples[-1].tokens[len(prompt) : -1].tolist()])[0].message
    assert (parsed.content, parsed.thinking) == (turns[-1]["content"], turns[-1].get("reasoning_content", ""))
