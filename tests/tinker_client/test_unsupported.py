"""What a Tinker service lacks is refused by name, before anything is sent."""

from typing import Any

import numpy as np
import pytest

from tests.conformance.calls import CROSS_ENTROPY, batch, forward_backward, sample_request
from tests.tinker_client.conftest import Bench
from tests.tinker_client.test_training_faults import create
from tinsmith.aio import TinsmithError
from tinsmith.trainer.v1 import CreateModelRequest, LossSpec, Regularizer, RegularizerKind
from tinsmith.types.v1 import LoraConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("lora", "option"),
    [({"alpha": 16.0}, "lora.alpha"), ({"target_modules": ["q_proj"]}, "lora.target_modules")],
)
async def test_shape_of_an_adapter(bench: Bench, lora: dict[str, Any], option: str) -> None:
    with pytest.raises(TinsmithError) as refused:
        await bench.suite.trainer.CreateModel(CreateModelRequest(base_model="random", lora=LoraConfig(**lora)))
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "BACKEND_UNSUPPORTED")
    assert refused.value.metadata["option"] == option
    assert "create_model" not in bench.faults.asked


async def test_regularizer_of_the_whole_distribution(bench: Bench) -> None:
    model = await create(bench.suite)
    entropy = Regularizer(
        name="calm",
        kind=RegularizerKind.REGULARIZER_KIND_ENTROPY,
        weight=0.1,
        choices={"over": "vocabulary"},
    )
    loss = LossSpec(cross_entropy=CROSS_ENTROPY.cross_entropy, regularizers=[entropy])
    bench.faults.asked.clear()
    with pytest.raises(TinsmithError) as refused:
        await forward_backward(bench.suite, model, loss=loss)
    assert (refused.value.code.name, refused.value.reason) == ("UNIMPLEMENTED", "REGULARIZER_NOT_IMPLEMENTED")
    assert refused.value.metadata["regularizer"] == "calm"
    assert bench.faults.asked == []
    assert (await forward_backward(bench.suite, model)).metrics["loss:sum"] > 0


async def test_stops_of_two_kinds(bench: Bench) -> None:
    request = sample_request([[1]], stop={"strings": ["x"], "token_ids": [3]})
    bench.faults.asked.clear()
    with pytest.raises(TinsmithError) as refused:
        await bench.suite.sampler.Sample(request)
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "BACKEND_UNSUPPORTED")
    assert "asample" not in bench.faults.asked


async def test_logprobs_regularizer_is_computed_from_the_services_logprobs(bench: Bench) -> None:
    model = await create(bench.suite)
    square = Regularizer(name="small", kind=RegularizerKind.REGULARIZER_KIND_L2, weight=0.5)
    loss = LossSpec(cross_entropy=CROSS_ENTROPY.cross_entropy, regularizers=[square])
    answer = await forward_backward(bench.suite, model, loss=loss, batch=batch())
    (report,) = answer.regularizers
    assert report.contribution == pytest.approx(0.5 * report.value)
    assert np.isfinite(report.logprob_grad_norm)
