"""The Python client's example, against a real suite."""

import re
import sys

from tests.client.toolchains import ROOT, SMALL_RUN, run
from tests.suite import RunningSuite


def test_its_example_trains_a_model_and_asks_it(suite: RunningSuite) -> None:
    example = str(ROOT / "clients/python/examples/math_rl.py")
    printed = run([sys.executable, example, *SMALL_RUN], ROOT, suite.environment).splitlines()
    assert [line.partition(":")[0] for line in printed[:-1]] == ["step 1/2", "step 2/2"]
    assert re.fullmatch(r"What is 3 \+ 4\? .+", printed[-1])
