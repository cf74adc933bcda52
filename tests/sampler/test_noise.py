"""The random numbers: Philox as its authors published it, and what its counter means."""

import numpy as np
import pytest

from tests.sampler.lab import Lab, prompts_of, request
from tinsmith_server.sampler.drawing.philox import philox4x32, uniforms

# kat_vectors of Random123, the reference implementation: counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = [np.array([word], np.uint64) for word in (*counter, *key)]
    c0, c1, c2, c3, k0, k1 = words
    assert [int(word[0]) for word in philox4x32((c0, c1, c2, c3), (k0, k1))] == expected


def test_a_number_is_a_function_of_seed_member_and_token() -> None:
    seeds, members = np.array([5, 5, -1, 2**63 - 1]), np.array([0, 1, 0, 0])
    whole = uniforms(seeds, members, 0, 64)
    assert np.array_equal(uniforms(seeds[2:3], members[2:3], 32, 8), whole[2:3, 32:40])
    assert (whole >= 0).all()
    assert (whole < 1).all()
    assert len(np.unique(whole)) == whole.size
    assert abs(uniforms(np.arange(1000), np.zeros(1000, int), 0, 64).mean() - 0.5) < 0.005


def test_more_tokens_more_samples_or_other_prompts_leave_an_answer_as_it_was(lab: Lab) -> None:
    """Answer i of a prompt draws from (seed, i); no other prompt of the request has a part in it."""
    [prompt, other] = prompts_of([6, 6])
    short = lab.sample([prompt], max_tokens=6, num_samples=2, seed=3, ignore_eos=True)
    longer = lab.sample([other, prompt], max_tokens=30, num_samples=5, seed=3, ignore_eos=True)
    for member in range(2):
        assert short.tokens[member].tolist() == longer.tokens[5 + member][:6].tolist()


def test_the_same_request_gives_the_same_bits(lab: Lab) -> None:
    wanted = request(prompts_of([3, 8, 8, 20]), num_samples=4, max_tokens=24, temperature=1.3, top_p=0.9)
    first, again = lab.run(wanted), lab.run(wanted)
    assert first.tokens.values.tobytes() == again.tokens.values.tobytes()
    assert first.logprobs.values.tobytes() == again.logprobs.values.tobytes()


def test_other_seeds_give_other_answers(lab: Lab) -> None:
    prompts = prompts_of([6])
    answers = {lab.sample(prompts, seed=seed, temperature=2.0).tokens.values.tobytes() for seed in range(-5, 5)}
    assert len(answers) == 10
