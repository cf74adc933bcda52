"""SampleStream: the same answers, in pieces."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampler.calls import sample_request
from tests.support import random_tokenizer
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import data_pb2
from tinsmith_server.sampler.detokenizer import Detokenizer
from tinsmith_server.sampler.local.loader import TokenizerText

Serve = Callable[..., AbstractAsyncContextManager[Suite]]
TEXT = TokenizerText(random_tokenizer())
OPTIONS = {"num_samples": 6, "max_tokens": 60, "temperature": 1.5, "stop": {"token_ids": list(range(20))}}


async def test_the_pieces_add_up_to_the_whole(serve: Serve) -> None:
    async with serve(stream_interval_ms=0) as suite:
        whole = await suite.sampler.Sample(sample_request(return_text=True, **OPTIONS))
        request = pb.SampleStreamRequest(sample=sample_request(**OPTIONS))
        messages = [message async for message in suite.sampler.SampleStream(request)]
    *pieces, last = messages
    assert len(pieces) > 5
    assert (last.usage, last.weights_version) == (whole.usage, whole.weights_version)
    assert not last.deltas
    answers = defaultdict[int, list[pb.SampleDelta]](list)
    for message in pieces:
        assert not message.HasField("usage")
        for delta in message.deltas:
            answers[delta.index].append(delta)
    assert sorted(answers) == list(range(24))
    for index, (tokens, logprobs) in enumerate(zip(rows(whole.tokens), rows(whole.logprobs), strict=True)):
        deltas = answers[index]
        assert b"".join(delta.token_ids for delta in deltas) == tokens.tobytes()
        assert b"".join(delta.logprobs for delta in deltas) == logprobs.tobytes()
        assert "".join(delta.text for delta in deltas) == whole.texts[index]
        assert deltas[-1].stop_reason == whole.stop_reasons[index]
        assert {delta.stop_reason for delta in deltas[:-1]} <= {data_pb2.STOP_REASON_UNSPECIFIED}


async def test_tokens_come_while_the_rest_is_decoded_and_travel_together(suite: Suite) -> None:
    """R-08: the first message comes when less than 0.3 of the answer is there."""
    request = pb.SampleStreamRequest(sample=sample_request([[1, 2]], max_tokens=500, ignore_eos=True))
    sizes = [
        sum(len(delta.token_ids) // 4 for delta in message.deltas)
        async for message in suite.sampler.SampleStream(request)
    ]
    assert sum(sizes) == 500
    assert sizes[0] < 150
    assert len(sizes) < 250


async def test_streams_and_whole_answers_run_side_by_side(suite: Suite) -> None:
    async def streamed() -> bytes:
        request = pb.SampleStreamRequest(sample=sample_request([[5, 6]], max_tokens=40, ignore_eos=True))
        deltas = [delta async for message in suite.sampler.SampleStream(request) for delta in message.deltas]
        return b"".join(delta.token_ids for delta in deltas)

    whole = suite.sampler.Sample(sample_request([[5, 6]], max_tokens=40, ignore_eos=True))
    found = await asyncio.gather(whole, *(streamed() for _ in range(5)))
    assert set(found[1:]) == {found[0].tokens.data}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_text_comes_in_whole_characters(data: st.DataObject) -> None:
    """Any text in one token a byte, cut anywhere: no piece holds half a character, and they add up."""
    text = data.draw(st.text(alphabet="a é€😀\u0301\n", max_size=30))
    tokens = random_tokenizer().encode(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    answer, pieces = Detokenizer(TEXT), []
    for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        pieces.append(answer.push(tokens[start:stop], last=stop == len(tokens) and start != stop))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 262), min_size=1, max_size=40))
def test_pieces_of_any_tokens_add_up_to_their_text(tokens: list[int]) -> None:
    """Also where the bytes are no text, and over special tokens."""
    answer = Detokenizer(TEXT)
    pieces = [answer.push([token], last=place == len(tokens) - 1) for place, token in enumerate(tokens)]
    assert "".join(pieces) == TEXT.decode(tokens, skip_special_tokens=True)
