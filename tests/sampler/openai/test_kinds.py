"""Servers of other kinds, and vLLM with other settings: what they can't do is refused by name, never left out."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.sampler.calls import publish, sample_request
from tests.sampler.openai.conftest import Serve
from tests.sampler.openai.server import ModelServer, model_server
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith_server.serving import CannotServe

GREEDY = {"temperature": 0.0, "max_tokens": 12}


async def unsupported(remote: Suite, **options: Any) -> str:
    """The parameter that is refused."""
    with pytest.raises(TinsmithError) as caught:
        await remote.sampler.Sample(sample_request(**options))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_UNSUPPORTED")
    return str(caught.value.metadata["parameter"])


async def test_sglang_answers_the_same(serve: Serve, remote: Suite, model_directory: Path) -> None:
    """K-03. Its fields differ, and each answer is a request because its answers share a seed."""
    async with model_server(model_directory, owner="sglang") as sglang, serve(sglang) as other:
        request = sample_request(num_samples=2, stop={"token_ids": list(range(30))}, **GREEDY)
        found, expected = await other.sampler.Sample(request), await remote.sampler.Sample(request)
        assert (found.tokens, found.stop_reasons) == (expected.tokens, expected.stop_reasons)
        drawn = await other.sampler.Sample(sample_request([[1, 2]], num_samples=4, ignore_eos=True))
        assert len({row.tobytes() for row in rows(drawn.tokens)}) == 4
        assert [body["n"] for body in sglang.bodies[-4:]] == [1] * 4
        assert {body["top_k"] for body in sglang.bodies[-4:]} == {-1}


async def test_sglang_scores_prompts_by_echoing_them(serve: Serve, remote: Suite, model_directory: Path) -> None:
    async with model_server(model_directory, owner="sglang") as sglang, serve(sglang) as other:
        request = pb.ComputeLogprobsRequest(
            model=pb.ModelRef(base_model="random"), sequences=ragged([[5, 6, 7], [9]], np.int32)
        )
        found, expected = [await suite.sampler.ComputeLogprobs(request) for suite in (other, remote)]
        for one, two in zip(rows(found.logprobs), rows(expected.logprobs), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-4)
        wanted = sample_request(prompt_logprobs=True, num_samples=2, **GREEDY)
        found, expected = [await suite.sampler.Sample(wanted) for suite in (other, remote)]
        assert found.tokens == expected.tokens
        for column in ("logprobs", "prompt_logprobs"):
            for one, two in zip(rows(getattr(found, column)), rows(getattr(expected, column)), strict=True):
                np.testing.assert_allclose(one, two, atol=1e-4)


async def test_what_sglang_lacks_is_named(serve: Serve, model_directory: Path) -> None:
    async with model_server(model_directory, owner="sglang") as server, serve(server) as remote:
        for name, value in (("top_logprobs", 2), ("top_prompt_logprobs", 2), ("allowed_token_ids", [3])):
            assert await unsupported(remote, **{name: value}) in (name, f"params.{name}")


async def test_a_server_of_no_known_kind_takes_what_openai_has(
    serve: Serve, tmp_path: Path, model_directory: Path
) -> None:
    async with model_server(model_directory, owner="somebody") as server, serve(server) as remote:
        found = await remote.sampler.Sample(sample_request([[1, 2]], num_samples=2, top_p=0.9, max_tokens=5))
        assert len(found.stop_reasons) == 2
        refused = {"top_k": 3, "min_p": 0.1, "ignore_eos": True, "stop": {"token_ids": [3]}, "allowed_token_ids": [3]}
        for name, value in refused.items():
            assert name in await unsupported(remote, **{name: value})
        uri = publish(tmp_path, model_directory, seed=1)
        assert await unsupported(remote, checkpoint_uri=uri) == "model.checkpoint_uri"


async def test_a_server_that_tells_text_only_is_no_use(serve: Serve, model_directory: Path) -> None:
    async with model_server(model_directory, owner="plain") as server, serve(server) as remote:
        assert await unsupported(remote) == "token ids"


async def test_a_bias_beyond_what_servers_keep_is_refused(remote: Suite) -> None:
    """They cut it to 100 without a word."""
    assert await unsupported(remote, logit_bias={5: 100.5}) == "params.logit_bias"


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"temperature": 0.7}, "params.temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.1}, "min_p"),
        ({"logit_bias": {5: 1.0}}, "penalties and biases"),
        ({"allowed_token_ids": [5, 6]}, "penalties and biases"),
        ({"frequency_penalty": 0.5}, "penalties and biases"),
    ],
)
async def test_logprobs_of_another_distribution_are_not_passed_on(
    serve: Serve, model_directory: Path, options: dict[str, Any], parameter: str
) -> None:
    """vLLM tells the model's own unless it is started with --logprobs-mode processed_logprobs."""
    async with model_server(model_directory, processed=False) as server, serve(server) as remote:
        assert parameter in await unsupported(remote, **options)
        for fitting in ({"temperature": 1.0}, GREEDY, GREEDY | {"logit_bias": {5: 1.0}}):
            await remote.sampler.Sample(sample_request(**fitting))


async def test_at_temperature_0_processed_logprobs_are_the_models_own_only_without_biases(remote: Suite) -> None:
    await remote.sampler.Sample(sample_request(top_p=0.5, top_k=2, min_p=0.5, **GREEDY))
    assert "temperature 0" in await unsupported(remote, logit_bias={5: 1.0}, **GREEDY)


async def test_a_model_may_have_another_name_there(serve: Serve, server: ModelServer) -> None:
    alias = {"base_models": f"mine={server.directory}"}
    for settings in (alias, alias | {"openai_models": "mine=served-random"}):
        async with serve(server, **settings) as remote:
            found = await remote.sampler.Sample(sample_request(base_model="mine"))
            assert found.weights_version == "mine"
    with pytest.raises(CannotServe, match=r"the model server has no nothing; it has served-random; .*openai_models"):
        async with serve(server, **alias, openai_models="mine=nothing"):
            pass
