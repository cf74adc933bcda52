"""Tokenize, Detokenize, DescribeWeights, and many calls on one tokenizer."""

import asyncio
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tests.support import random_tokenizer, serving
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, rows
from tinsmith.renderer.v1 import (
    DescribeWeightsRequest,
    DetokenizeRequest,
    ParseResponsesRequest,
    RenderPromptsRequest,
    RenderTrainingRequest,
    TokenizeRequest,
)
from tinsmith.types.v1 import Conversation, Message
from tinsmith_server.dataset import ROOM
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.weight_runs import weight_runs
from tinsmith_server.serving import CannotServe

TEXTS = ["", "Hi", "ä🙂 x", "<|im_start|>user\n"]


async def test_texts_become_tokens_and_texts_again(suite: Suite, plain_tokenizer: PreTrainedTokenizerFast) -> None:
    """T-07."""
    tokens = (await suite.renderer.Tokenize(TokenizeRequest(model="plain", texts=TEXTS))).tokens
    assert [row.tolist() for row in rows(tokens)] == plain_tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    for skip in (False, True):
        request = DetokenizeRequest(model="plain", tokens=tokens, skip_special_tokens=skip)
        oracle = plain_tokenizer.batch_decode(rows(tokens), skip_special_tokens=skip)
        assert list((await suite.renderer.Detokenize(request)).texts) == oracle


async def test_begin_of_sequence_comes_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """T-07."""
    tokenizer = random_tokenizer()
    begin = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path / "model")
    models = (f"begins={tmp_path / 'model'}",)
    async with serving(ROOM, tmp_path, base_models=models) as address, Suite.connect(dataset=address) as suite:
        for special in (False, True):
            request = TokenizeRequest(model="begins", texts=["x"], add_special_tokens=special)
            got = rows((await suite.renderer.Tokenize(request)).tokens)[0].tolist()
            assert got == tokenizer.encode("x", add_special_tokens=special)
            assert (begin in got) is special
        prompts = RenderPromptsRequest(model="begins", conversations=[Conversation(messages=[Message(role="user")])])
        assert begin not in rows((await suite.renderer.RenderPrompts(prompts)).tokens)[0]
        prompts.renderer = "role_colon"
        assert rows((await suite.renderer.RenderPrompts(prompts)).tokens)[0].tolist().count(begin) == 1


async def test_one_tokenizer_serves_many_calls_at_once(suite: Suite) -> None:
    """Fast tokenizers raise "Already borrowed" when threads share them; long and short calls are mixed here."""
    long = [Conversation(messages=[Message(role="user", content="x" * 20_000), Message(role="assistant", content="y")])]
    short = [Conversation(messages=[Message(role="user", content="x")])]
    calls = [
        call
        for _ in range(8)
        for call in (
            suite.renderer.RenderTraining(RenderTrainingRequest(model="plain", conversations=long)),
            suite.renderer.RenderPrompts(RenderPromptsRequest(model="plain", conversations=short)),
            suite.renderer.Tokenize(TokenizeRequest(model="plain", texts=["x" * 20_000], add_special_tokens=True)),
            suite.renderer.ParseResponses(ParseResponsesRequest(model="plain", tokens=ragged([[1, 2]], "<i4"))),
        )
    ]
    answers = await asyncio.gather(*calls)
    assert all(answers[number] == answers[number % 4] for number in range(len(answers)))


async def test_long_work_does_not_hold_up_short_calls_of_others(suite: Suite) -> None:
    conversation = Conversation(messages=[Message(role="user", content="x" * 1000), Message(role="assistant")])
    request = RenderTrainingRequest(model="plain", conversations=[conversation] * 500)
    long = asyncio.ensure_future(suite.renderer.RenderTraining(request))
    await asyncio.sleep(0.05)
    await suite.renderer.Tokenize(TokenizeRequest(model="qwen", texts=["x"]))
    assert not long.done()
    await long


async def test_runs_of_weights_never_cut_a_character(suite: Suite, plain_tokenizer: PreTrainedTokenizerFast) -> None:
    """U-02."""
    tokens = plain_tokenizer.encode("ab🙂c", add_special_tokens=False)
    weights = np.array([0, 0, 1, 0, 1, 0, 0.5], np.float32)
    request = DescribeWeightsRequest(
        model="plain", tokens=ragged([tokens, []], "<i4"), weights=ragged([weights, []], "<f4")
    )
    answer = await suite.renderer.DescribeWeights(request)
    assert [(run.text, run.weight) for run in answer.examples[0].runs] == [("ab", 0), ("🙂", 1), ("c", 0.5)]
    assert not answer.examples[1].runs


async def test_weights_must_fit_the_tokens(suite: Suite) -> None:
    request = DescribeWeightsRequest(model="plain", tokens=ragged([[1, 2]], "<i4"), weights=ragged([[1.0]], "<f4"))
    with pytest.raises(TinsmithError) as error:
        await suite.renderer.DescribeWeights(request)
    assert error.value.reason == "BAD_TENSOR"


TOKENIZER = Tokenizer("test", random_tokenizer(), Path("none"))


@given(data=st.data(), text=st.text(st.characters(exclude_categories=("Cs",)), max_size=12))
def test_runs_add_up_to_the_text(data: st.DataObject, text: str) -> None:
    tokens = TOKENIZER.encode([text])[0]
    weights = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(tokens), max_size=len(tokens)))
    runs = weight_runs(TOKENIZER, tokens, np.array(weights, np.float32))
    assert "".join(run for run, _ in runs) == text
    assert all(first != second for (_, first), (_, second) in pairwise(runs))


async def test_a_model_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    for entry in ("./nothing/here", "nobody/no-such-model"):
        with pytest.raises(CannotServe, match="BASE_MODEL_NOT_FOUND"):
            async with serving(ROOM, tmp_path, base_models=(entry,)):
                pass


async def test_a_model_may_have_no_template(tmp_path: Path) -> None:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    models = (f"bare={tmp_path / 'bare'}",)
    request = RenderPromptsRequest(model="bare", conversations=[Conversation(messages=[Message(role="user")])])
    async with serving(ROOM, tmp_path, base_models=models) as address, Suite.connect(dataset=address) as suite:
        with pytest.raises(TinsmithError) as error:
            await suite.renderer.RenderPrompts(request)
        assert (error.value.code.name, error.value.reason) == ("FAILED_PRECONDITION", "NO_CHAT_TEMPLATE")
        request.renderer = "role_colon"
        assert len(rows((await suite.renderer.RenderPrompts(request)).tokens)[0])
