"""A bad request is refused in the same way whatever samples (K-02)."""

from typing import Any

import numpy as np
import pytest

from tests.conformance.calls import logprobs_request, sample, sample_request
from tests.conformance.worlds import World
from tinsmith.aio import TinsmithError
from tinsmith.arrays import ragged
from tinsmith.sampler.v1 import SampleRequest, SampleStreamRequest, SamplingParams

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("prompts", "options", "expected"),
    [
        ([], {}, ("INVALID_ARGUMENT", "EMPTY_PROMPT")),
        ([[1], []], {}, ("INVALID_ARGUMENT", "EMPTY_PROMPT")),
        ([[1] * 512], {}, ("INVALID_ARGUMENT", "PROMPT_TOO_LONG")),
        ([[-1]], {}, ("INVALID_ARGUMENT", "TOKEN_OUT_OF_VOCABULARY")),
        ([[1]], {"seeds": [1, 2]}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ([[1]], {"max_tokens": 0}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ([[1]] * 5, {"num_samples": 4096}, ("INVALID_ARGUMENT", "TOO_MANY_ANSWERS")),
        ([[1]], {"stop": {"strings": [""]}}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        ([[1]], {"uri": "tinsmith://nobody/sampler/never"}, ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")),
        ([[1]], {"uri": "elsewhere"}, ("INVALID_ARGUMENT", "BAD_CHECKPOINT_URI")),
    ],
)
async def test_refused_alike(
    sampler: World, prompts: list[list[int]], options: dict[str, Any], expected: tuple[str, str]
) -> None:
    with pytest.raises(TinsmithError) as refused:
        await sample(sampler, prompts, **options)
    assert (refused.value.code.name, refused.value.reason) == expected


async def test_unknown_base_model(sampler: World) -> None:
    request = SampleRequest(
        model={"base_model": "nobody"}, params=SamplingParams(max_tokens=1), prompts=ragged([[1]], np.int32)
    )
    with pytest.raises(TinsmithError) as refused:
        await sampler.suite.sampler.Sample(request)
    assert (refused.value.code.name, refused.value.reason) == ("NOT_FOUND", "BASE_MODEL_NOT_FOUND")


async def test_token_outside_the_vocabulary(sampler: World) -> None:
    reason = "TOKEN_OUT_OF_VOCABULARY" if sampler.checks_vocabulary else "BACKEND_REFUSED"
    for call in (
        sample(sampler, [[1_000_000]]),
        sampler.suite.sampler.ComputeLogprobs(logprobs_request([[1, 1_000_000]])),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", reason)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("min_p", 0.1),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("logit_bias", {5: 1.0}),
        ("allowed_token_ids", [5, 6]),
    ],
)
async def test_parameter_is_followed_or_refused_by_name(sampler: World, parameter: str, value: Any) -> None:
    if parameter not in sampler.lacks:
        assert len((await sample(sampler, [[1]], **{parameter: value})).stop_reasons) == 1
        return
    with pytest.raises(TinsmithError) as refused:
        await sample(sampler, [[1]], **{parameter: value})
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "BACKEND_UNSUPPORTED")
    assert parameter in refused.value.message


async def test_stream_carries_no_prompt_logprobs(sampler: World) -> None:
    request = SampleStreamRequest(sample=sample_request([[1]], prompt_logprobs=True))
    with pytest.raises(TinsmithError) as refused:
        async for _ in sampler.suite.sampler.SampleStream(request):
            pass
    assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", "NOT_STREAMED")
