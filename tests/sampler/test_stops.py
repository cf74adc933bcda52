"""Where answers end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampler.lab import VOCABULARY, AsciiText, Lab, prompts_of
from tests.support import random_tokenizer
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.local.loader import TokenizerText
from tinsmith_server.sampler.request import SamplingParams, StopReason

TEXT = TokenizerText(random_tokenizer())
SPECIAL = random_tokenizer().convert_tokens_to_ids("<|im_start|>")


def ends_after(tokens: list[int], strings: tuple[str, ...]) -> int | None:
    """Number of tokens after which the answer has a stop string, as the matcher sees it token by token."""
    matcher = StopMatcher(SamplingParams(max_tokens=1, stop_strings=strings), frozenset(), 300, TEXT.decode)
    row = np.zeros(1, np.int64)
    for place, token in enumerate(tokens):
        if matcher.reasons(row, np.array([token]))[0] == StopReason.STOP:
            return place + 1
    return None


def naive(tokens: list[int], strings: tuple[str, ...]) -> int | None:
    for count in range(1, len(tokens) + 1):
        if any(string in TEXT.decode(tokens[:count]) for string in strings):
            return count
    return None


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet="ab é€😀\n", max_size=40),
    strings=st.lists(st.text(alphabet="ab é€😀\n", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_end_an_answer_at_the_token_that_completes_them(text: str, strings: list[str]) -> None:
    """One token a byte, so every string spans tokens and most characters do."""
    tokens = random_tokenizer().encode(text)
    assert ends_after(tokens, tuple(strings)) == naive(tokens, tuple(strings))


def test_a_stop_string_may_be_a_special_tokens_text() -> None:
    tokens = [*random_tokenizer().encode("ab"), SPECIAL]
    assert ends_after(tokens, ("<|im_start|>",)) == 3


def test_bytes_that_are_no_text_do_not_hide_a_stop_string() -> None:
    broken = random_tokenizer().encode("€")[:1] * 50
    assert ends_after([*broken, *random_tokenizer().encode("STOP")], ("STOP",)) == 54


def test_the_token_that_completes_a_stop_string_belongs_to_the_answer(lab: Lab) -> None:
    prompts = prompts_of([5, 8])
    free = lab.sample(prompts, num_samples=4, max_tokens=20, temperature=2.0, ignore_eos=True)
    text = AsciiText().decode(free.tokens[3].tolist())
    stop = text[4:7]
    found = lab.sample(
        prompts, num_samples=4, max_tokens=20, temperature=2.0, ignore_eos=True, stop_strings=(stop,), return_text=True
    )
    assert found.texts is not None
    assert found.texts[3] == text[: text.index(stop) + 3]
    assert found.stop_reasons[3] == StopReason.STOP
    for mine, whole in zip(found.texts, free.tokens, strict=True):
        assert AsciiText().decode(whole.tolist()).startswith(mine), "the other answers go on as they would have"


@pytest.mark.parametrize("ignore", [False, True])
def test_the_end_of_sequence_token_ends_an_answer_unless_ignored(lab: Lab, ignore: bool) -> None:
    found = lab.sample(
        prompts_of([5]), num_samples=64, max_tokens=20, allowed_token_ids=(1, 2, 3), ignore_eos=ignore, temperature=5.0
    )
    for tokens, reason in zip(found.tokens, found.stop_reasons, strict=True):
        ended = 1 in tokens and not ignore
        assert reason == (StopReason.EOS if ended else StopReason.LENGTH)
        assert len(tokens) == (tokens.tolist().index(1) + 1 if ended else 20)


def test_a_stop_token_of_the_request_goes_before_the_models_own(lab: Lab) -> None:
    found = lab.sample(prompts_of([5]), max_tokens=9, allowed_token_ids=(1,), stop_token_ids=(1, VOCABULARY - 1))
    assert found.tokens[0].tolist() == [1]
    assert found.stop_reasons.tolist() == [StopReason.STOP]
