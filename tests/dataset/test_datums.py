"""BuildDatums: rows to data for cross_entropy."""

from typing import Any

import numpy as np
import pytest

from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.dataset.v1 import BuildDatumsRequest, BuiltDatums, DatumFormat, WeightNormalization
from tinsmith.renderer.v1 import RenderTrainingRequest, TrainOnWhat
from tinsmith.types.v1 import Conversation, Message, Preference, PreferencePair, Row

SUM, NONE = WeightNormalization.WEIGHT_NORMALIZATION_MEAN, WeightNormalization.WEIGHT_NORMALIZATION_NONE


def conversation(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(messages=[Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)])


async def build(suite: Suite, *found: Row, model: str = "plain", **options: Any) -> BuiltDatums:
    request = BuildDatumsRequest(rows=found, format=DatumFormat(model=model, **options))
    return (await suite.datasets.BuildDatums(request)).datums


async def rendered(suite: Suite, wanted: Conversation) -> tuple[np.ndarray, np.ndarray]:
    answer = await suite.renderer.RenderTraining(RenderTrainingRequest(model="plain", conversations=[wanted]))
    return rows(answer.tokens)[0], rows(answer.weights)[0]


def columns(datums: BuiltDatums) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    inputs = datums.batch.loss_inputs
    return list(
        zip(
            rows(datums.batch.tokens),
            rows(inputs["target_tokens"].ragged),
            rows(inputs["weights"].ragged),
            strict=True,
        )
    )


async def test_targets_are_the_tokens_that_follow(suite: Suite) -> None:
    """D-18."""
    wanted = conversation("2 + 2", "4", "3 + 3", "6")
    sequence, weights = await rendered(suite, wanted)
    datums = await build(suite, Row(conversation=wanted), normalization=NONE)
    [(tokens, targets, got)] = columns(datums)
    np.testing.assert_array_equal(tokens, sequence[:-1])
    np.testing.assert_array_equal(targets, sequence[1:])
    np.testing.assert_array_equal(got, weights[1:])
    assert targets.dtype == np.int64


async def test_weights_of_a_conversation_sum_to_one(suite: Suite) -> None:
    """D-18."""
    wanted = conversation("2 + 2", "four")
    _, weights = await rendered(suite, wanted)
    for options in ({}, {"normalization": SUM}):
        [(_, _, got)] = columns(await build(suite, Row(conversation=wanted), **options))
        np.testing.assert_allclose(got, weights[1:] / weights.sum(), rtol=1e-6)


async def test_nothing_to_train_stays_zero(suite: Suite) -> None:
    [(_, _, got)] = columns(await build(suite, Row(conversation=conversation("hi"))))
    assert not got.any()


async def test_long_sequences_are_cut_at_the_right(suite: Suite) -> None:
    """D-18: cut, then shifted, then scaled."""
    wanted = conversation("2 + 2", "a long answer")
    sequence, weights = await rendered(suite, wanted)
    length = int(np.flatnonzero(weights)[0]) + 3
    datums = await build(suite, Row(conversation=wanted), Row(conversation=conversation("a", "b")), max_length=length)
    tokens, targets, got = columns(datums)[0]
    np.testing.assert_array_equal(tokens, sequence[: length - 1])
    np.testing.assert_array_equal(targets, sequence[1:length])
    assert got.sum() == pytest.approx(1)
    assert np.count_nonzero(got) == 3
    assert datums.truncated == 1


async def test_the_context_of_the_model_is_the_longest_length(suite: Suite) -> None:
    datums = await build(suite, Row(conversation=conversation("x" * 2000, "y")))
    assert [len(row) for row in rows(datums.batch.tokens)] == [511]
    assert datums.truncated == 1


async def test_pairs_are_interleaved_the_better_first(suite: Suite) -> None:
    """D-18."""
    prompt, good, bad = (
        conversation("q"),
        Message(role="assistant", content="good"),
        Message(role="assistant", content="bad"),
    )
    first_good = PreferencePair(
        prompt=prompt,
        first=Conversation(messages=[good]),
        second=Conversation(messages=[bad]),
        label=Preference.PREFERENCE_FIRST,
    )
    second_good = PreferencePair(
        prompt=prompt,
        first=Conversation(messages=[bad]),
        second=Conversation(messages=[good]),
        label=Preference.PREFERENCE_SECOND,
    )
    datums = await build(suite, Row(preference=first_good), Row(preference=second_good))
    assert list(datums.row_index) == [0, 0, 1, 1]
    for number, (tokens, _, weights) in enumerate(columns(datums)):
        sequence, raw = await rendered(suite, conversation("q", "good" if number % 2 == 0 else "bad"))
        np.testing.assert_array_equal(tokens, sequence[:-1])
        np.testing.assert_array_equal(weights, raw[1:])


async def test_a_conversation_may_become_several_data(suite: Suite) -> None:
    thinking = conversation("a", "b", "c", "d")
    del thinking.messages[1].parts[:]
    thinking.messages[1].parts.add(thinking="hm")
    thinking.messages[1].parts.add(text=thinking.messages[1].content)
    thinking.messages[1].ClearField("content")
    datums = await build(suite, Row(conversation=conversation("x", "y")), Row(conversation=thinking), model="qwen")
    assert list(datums.row_index) == [0, 1, 1]
    pair = PreferencePair(
        prompt=Conversation(messages=thinking.messages[:3]),
        first=Conversation(messages=thinking.messages[3:]),
        second=Conversation(messages=thinking.messages[3:]),
        label=Preference.PREFERENCE_FIRST,
    )
    with pytest.raises(TinsmithError) as error:
        await build(suite, Row(preference=pair), model="qwen")
    assert error.value.reason == "PAIR_NEEDS_ONE_EXAMPLE"
    last = TrainOnWhat.TRAIN_ON_WHAT_LAST_ASSISTANT_TURN
    assert list((await build(suite, Row(preference=pair), model="qwen", train_on_what=last)).row_index) == [0, 0]


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        (Row(json=b"{}"), {}, "ROW_SHAPE_UNSUPPORTED"),
        (Row(prompt=conversation("a")), {}, "ROW_SHAPE_UNSUPPORTED"),
        (Row(preference=PreferencePair(label=Preference.PREFERENCE_TIE)), {}, "NO_PREFERENCE"),
        (Row(conversation=Conversation()), {}, "EMPTY_CONVERSATION"),
        (Row(conversation=conversation("a", "b")), {"max_length": 1}, "TOO_SHORT"),
        (Row(conversation=conversation("a", "b")), {"model": "nope"}, "TOKENIZER_NOT_FOUND"),
        (Row(conversation=conversation("a", "b")), {"train_on_what": 99}, "INVALID_REQUEST"),
        (Row(conversation=conversation("a", "b")), {"normalization": 99}, "INVALID_REQUEST"),
    ],
)
async def test_what_can_not_be_built_is_refused(suite: Suite, row: Row, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(TinsmithError) as error:
        await build(suite, row, **options)
    assert error.value.reason == reason


async def test_no_rows_are_no_data(suite: Suite) -> None:
    assert columns(await build(suite)) == []
