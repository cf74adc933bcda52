"""How a request is cut into batches."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.sampler.lab import ragged_rows
from tinsmith_server.sampler.local.plan import BatchLimits, decode_plans, distinct

PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=30)


@given(prompts=PROMPTS, num_samples=st.integers(1, 7), rows=st.integers(1, 9), tokens=st.integers(1, 40))
def test_every_answer_is_in_one_batch_with_its_own_prompt(
    prompts: list[list[int]], num_samples: int, rows: int, tokens: int
) -> None:
    limits = BatchLimits(rows=rows, prompt_tokens=tokens)
    seen = []
    for plan in decode_plans(distinct(ragged_rows(prompts)), num_samples, limits):
        assert len(plan.answers_B) <= rows
        longest = max(map(len, plan.prompts))
        assert len(plan.prompts) == 1 or longest * len(plan.prompts) <= tokens
        assert (np.diff(plan.prompt_of_row_B) >= 0).all()
        for answer, prompt in zip(plan.answers_B.tolist(), plan.prompt_of_row_B.tolist(), strict=True):
            assert plan.prompts[prompt].tolist() == prompts[answer // num_samples]
        seen += plan.answers_B.tolist()
    assert sorted(seen) == list(range(len(prompts) * num_samples))


@given(prompts=PROMPTS)
def test_equal_prompts_are_found(prompts: list[list[int]]) -> None:
    found = distinct(ragged_rows(prompts))
    assert [found.rows[index].tolist() for index in found.index] == prompts
    assert len(found.rows) == len(set(map(tuple, prompts)))
