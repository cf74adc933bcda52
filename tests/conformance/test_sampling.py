"""Sampling is the same whatever computes it (K-02)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conformance.calls import (
    batch,
    column,
    create,
    forward,
    logprobs_request,
    sample,
    sample_request,
    train,
    trained_weights,
    values,
)
from tests.conformance.worlds import BASE_MODEL, World
from tinsmith import TinsmithError
from tinsmith.arrays import ragged, rows
from tinsmith.sampler.v1 import ListModelsRequest, SampleStreamRequest
from tinsmith.trainer.v1 import SaveForSamplerRequest
from tinsmith.types.v1 import STOP_REASON_EOS, STOP_REASON_LENGTH, STOP_REASON_STOP, DatumBatch

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPTS = [[72, 105], [10, 20, 30, 40], [7], [72, 105]]


@pytest.fixture(scope="module")
def oracle(model_directory: Path) -> Any:
    """The same model in `transformers`."""
    return AutoModelForCausalLM.from_pretrained(model_directory).eval()


def logprobs_of(oracle: Any, tokens: list[int]) -> NDArray[np.float32]:
    """The distribution after each token, float32 [tokens, vocabulary]."""
    with torch.no_grad():
        logits = oracle(torch.tensor([tokens])).logits[0]
    logprobs: NDArray[np.float32] = torch.log_softmax(logits, -1).numpy()
    return logprobs


async def test_base_model_is_listed(sampler: World) -> None:
    models = (await sampler.suite.sampler.ListModels(ListModelsRequest())).models
    assert [(model.name, model.context_length, model.loaded) for model in models] == [(BASE_MODEL, 512, True)]


async def test_temperature_0_is_greedy(sampler: World, oracle: Any) -> None:
    answer = await sample(sampler, PROMPTS, temperature=0.0, max_tokens=12)
    for prompt, tokens, logprobs in zip(PROMPTS, rows(answer.tokens), rows(answer.logprobs), strict=True):
        made = oracle.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=0)
        assert tokens.tolist() == made[0, len(prompt) :].tolist()
        expected = logprobs_of(oracle, [*prompt, *tokens.tolist()])[len(prompt) - 1 : -1]
        np.testing.assert_allclose(logprobs, expected[np.arange(len(tokens)), tokens], atol=1e-4)
    assert answer.weights_version == BASE_MODEL


async def test_seed_decides_the_answer(sampler: World) -> None:
    first, same, other = [
        rows((await sample(sampler, PROMPTS, seeds=[seed], num_samples=2)).tokens) for seed in (-1, -1, 2)
    ]
    assert len(first) == 2 * len(PROMPTS)
    assert [row.tolist() for row in first] == [row.tolist() for row in same]
    assert [row.tolist() for row in first] != [row.tolist() for row in other]
    assert first[0].tolist() != first[1].tolist()


async def test_seeds_are_told_when_none_were_given(sampler: World) -> None:
    answer = await sample(sampler, PROMPTS, seeds=[])
    again = await sample(sampler, PROMPTS, seeds=list(answer.seeds))
    assert values(again.tokens).tolist() == values(answer.tokens).tolist()


async def test_token_limit(sampler: World) -> None:
    answer = await sample(sampler, PROMPTS, max_tokens=3, ignore_eos=True)
    assert [len(row) for row in rows(answer.tokens)] == [3] * len(PROMPTS)
    assert set(answer.stop_reasons) == {STOP_REASON_LENGTH}
    assert answer.usage.completion_tokens == 3 * len(PROMPTS)
    assert answer.usage.prompt_tokens == sum(map(len, PROMPTS))


async def test_stop_token_ends_the_answer_and_belongs_to_it(sampler: World) -> None:
    (free,) = rows((await sample(sampler, [[72, 105]], temperature=0.0, max_tokens=12)).tokens)
    stop = int(free[4])
    place = free.tolist().index(stop)
    for options in ({}, {"ignore_eos": True}):
        answer = await sample(
            sampler, [[72, 105]], temperature=0.0, max_tokens=12, stop={"token_ids": [stop]}, **options
        )
        assert values(answer.tokens).tolist() == free[: place + 1].tolist()
        assert list(answer.stop_reasons) == [STOP_REASON_STOP]


async def test_stop_string_ends_the_answer(sampler: World, model_directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    options = {"temperature": 2.0, "max_tokens": 40, "ignore_eos": True}
    (free,) = rows((await sample(sampler, [[72, 105]], **options)).tokens)
    texts = [tokenizer.decode([token]) for token in free]
    stop = next(text for text in texts[3:] if text.isascii() and text.isprintable())
    answer = await sample(sampler, [[72, 105]], stop={"strings": [stop]}, **options)
    assert values(answer.tokens).tolist() == free[: texts.index(stop) + 1].tolist()
    assert list(answer.stop_reasons) == [STOP_REASON_STOP]


@pytest.mark.parametrize("stop", [{}, {"token_ids": [3]}, {"strings": ["never this"]}])
async def test_end_of_sequence_ends_an_answer_beside_other_stops(
    sampler: World, oracle: Any, stop: dict[str, Any]
) -> None:
    """A prompt after which the model may end at once: the first answers of many that do."""
    eos = int(oracle.config.eos_token_id)
    answer = await sample(sampler, [[72, 105]], num_samples=64, max_tokens=16, temperature=2.0, stop=stop, seeds=[3])
    ended = [
        tokens.tolist()
        for tokens, reason in zip(rows(answer.tokens), answer.stop_reasons, strict=True)
        if reason == STOP_REASON_EOS
    ]
    assert ended
    assert all(tokens.index(eos) == len(tokens) - 1 for tokens in ended)


async def test_prompt_logprobs_and_likeliest_tokens(sampler: World, oracle: Any) -> None:
    answer = await sample(
        sampler, PROMPTS, temperature=0.0, prompt_logprobs=True, top_prompt_logprobs=3, top_logprobs=2
    )
    everything = zip(PROMPTS, rows(answer.prompt_logprobs), rows(answer.top_prompt_logprobs.token_ids), strict=True)
    for prompt, logprobs, tops in everything:
        expected = logprobs_of(oracle, prompt)
        assert np.isnan(logprobs[0])
        np.testing.assert_allclose(logprobs[1:], expected[np.arange(len(prompt) - 1), prompt[1:]], atol=1e-4)
        assert tops[1:].tolist() == np.argsort(-expected, axis=1)[:-1, :3].tolist()
    assert np.isneginf(rows(answer.top_prompt_logprobs.logprobs)[0][0]).all()
    for tokens, tops in zip(rows(answer.tokens), rows(answer.top_logprobs.token_ids), strict=True):
        assert tops.shape == (len(tokens), 2)
        assert tops[:, 0].tolist() == tokens.tolist()


async def test_logprobs_of_given_sequences(sampler: World, oracle: Any) -> None:
    answer = await sampler.suite.sampler.ComputeLogprobs(logprobs_request(PROMPTS, top_logprobs=2))
    for sequence, logprobs in zip(PROMPTS, rows(answer.logprobs), strict=True):
        expected = logprobs_of(oracle, sequence)[np.arange(len(sequence) - 1), sequence[1:]]
        assert np.isnan(logprobs[0])
        np.testing.assert_allclose(logprobs[1:], expected, atol=1e-4)
    assert [row.shape for row in rows(answer.top_logprobs.token_ids)] == [(len(row), 2) for row in PROMPTS]


async def test_logprobs_of_given_targets(sampler: World, oracle: Any) -> None:
    chance = np.random.default_rng(0)
    targets = [chance.integers(0, 200, (len(row), 5)) for row in PROMPTS]
    request = logprobs_request(PROMPTS, targets=ragged(targets, np.int32), top_logprobs=1)
    if "targets" in sampler.lacks:
        with pytest.raises(TinsmithError) as caught:
            await sampler.suite.sampler.ComputeLogprobs(request)
        assert caught.value.reason == "BACKEND_UNSUPPORTED"
        return
    answer = await sampler.suite.sampler.ComputeLogprobs(request)
    tops = rows(answer.top_logprobs.token_ids)
    for sequence, wanted, found, top in zip(PROMPTS, targets, rows(answer.logprobs), tops, strict=True):
        expected = logprobs_of(oracle, sequence)
        np.testing.assert_allclose(found, np.take_along_axis(expected, wanted, axis=1), atol=1e-4)
        assert top[:, 0].tolist() == expected.argmax(axis=1).tolist()


async def test_text_is_what_the_tokenizer_makes_of_the_tokens(sampler: World, model_directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_directory)
    answer = await sample(sampler, PROMPTS, return_text=True)
    assert list(answer.texts) == [
        tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in rows(answer.tokens)
    ]


async def test_stream_tells_the_same(sampler: World) -> None:
    request = sample_request(PROMPTS, num_samples=2, return_text=True)
    whole = await sampler.suite.sampler.Sample(request)
    tokens: dict[int, list[int]] = {number: [] for number in range(len(whole.stop_reasons))}
    texts, reasons = dict.fromkeys(tokens, ""), dict.fromkeys(tokens, 0)
    async for message in sampler.suite.sampler.SampleStream(SampleStreamRequest(sample=request)):
        for delta in message.deltas:
            tokens[delta.index] += np.frombuffer(delta.token_ids, "<i4").tolist()
            texts[delta.index] += delta.text
            reasons[delta.index] = delta.stop_reason
        last = message
    assert list(tokens.values()) == [row.tolist() for row in rows(whole.tokens)]
    assert list(texts.values()) == list(whole.texts)
    assert list(reasons.values()) == list(whole.stop_reasons)
    assert last.weights_version == whole.weights_version
    assert last.usage.completion_tokens == whole.usage.completion_tokens


async def test_trained_weights_answer_and_score_as_the_trainer_says(sampler: World) -> None:
    """Logprobs of sampler and trainer agree within 1e-4."""
    suite, model = sampler.suite, await create(sampler)
    await train(suite, model, 3)
    saved = (await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))).checkpoint
    answer = await sample(sampler, [[1, 2]], saved.uri, temperature=0.0)
    assert answer.weights_version.startswith(f"{BASE_MODEL}+")
    sequence = [1, 2, *values(answer.tokens).tolist()]
    scored = await suite.sampler.ComputeLogprobs(logprobs_request([sequence], saved.uri))
    trainers = await forward(suite, model, batch=_next_tokens(sequence))
    np.testing.assert_allclose(values(scored.logprobs)[1:], values(trainers.logprobs), atol=1e-4)
    np.testing.assert_allclose(values(answer.logprobs), values(trainers.logprobs)[1:], atol=1e-4)
    base = await sample(sampler, [[1, 2]], temperature=0.0)
    assert values(base.tokens).tolist() != values(answer.tokens).tolist()


async def test_every_backend_gives_the_same_greedy_answers(samplers: Mapping[str, World]) -> None:
    """The same training, then the same question."""
    answers = {}
    for name, world in samplers.items():
        uri = await trained_weights(world)
        answers[name] = values((await sample(world, PROMPTS, uri, temperature=0.0)).tokens).tolist()
    first, *others = answers.values()
    assert all(other == first for other in others)


def _next_tokens(sequence: list[int]) -> DatumBatch:
    return batch([sequence[:-1]], target_tokens=column([np.array(sequence[1:])], np.int64))
