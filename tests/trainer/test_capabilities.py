"""What a trainer says of itself."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.trainer.calls import create, forward_backward, optim_step
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import GetCapabilitiesRequest
from tinsmith_server.models import load_causal_lm


async def test_a_trainer_without_optional_accelerations_trains_and_says_that_it_has_none(
    suite: Suite, model_directory: Path
) -> None:
    """K-01"""
    if any(find_spec(package) for package in ("flash_attn", "deepspeed", "liger_kernel")):
        pytest.skip("one of them is installed here")
    capabilities = await suite.trainer.GetCapabilities(GetCapabilitiesRequest())
    assert capabilities.device == "cpu float32"
    assert capabilities.accelerations
    assert set(capabilities.accelerations.values()) == {False}
    assert load_causal_lm(model_directory).config._attn_implementation == "sdpa", "torch's own attention"
    model = await create(suite)
    await suite.trainer.ForwardBackward(forward_backward(model))
    assert (await suite.trainer.OptimStep(optim_step(model))).step == 1
