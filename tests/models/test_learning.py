"""What the warm-up is for: a base that knows sums, seldom says them plainly, and learns to."""

from pathlib import Path

import numpy as np
import pytest

from tests.models.reinforcement import correct_by_step
from tinsmith_server.models import EMBEDDED_MODELS
from tinsmith_server.models.embedded import embedded_directory


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_directory(EMBEDDED_MODELS["tinsmith-tiny"], tmp_path_factory.mktemp("home"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tiny_model_learns_addition_in_forty_steps(seed: int, tiny: Path) -> None:
    """From at most .35 to at least .95, the mean of the last five steps."""
    curve = correct_by_step(tiny, seed=seed)
    assert curve[0] <= 0.35
    assert np.mean(curve[-5:]) >= 0.95
