"""Runs of text of equal weight, to show what training counts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.dataset.renderers.tokenizer import Tokenizer

_HALF = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4
"""A character has at most four bytes, so at most four tokens."""


def weight_runs(tokenizer: Tokenizer, tokens: Sequence[int], weights: NDArray[np.float32]) -> list[tuple[str, float]]:
    """(text, weight) in reading order, of T tokens and their weights, float32 [T].

    A character whose tokens differ in weight has the weight of its first token. The texts add up to the whole text.
    """
    if not tokens:
        return []
    ends = _run_ends(_whole_characters(tokenizer, tokens), weights)
    texts = tokenizer.decode([tokens[:end] for end in ends])
    starts = [0, *ends[:-1]]
    before = ["", *texts[:-1]]
    return [
        (text[len(previous) :], float(weights[start]))
        for text, previous, start in zip(texts, before, starts, strict=True)
    ]


def _whole_characters(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Places where the text may be cut: each follows a whole character."""
    ends: list[int] = []
    start = 0
    for place, text in enumerate(tokenizer.decode([[token] for token in tokens]), 1):
        is_half = _HALF in text and _HALF in tokenizer.decode([tokens[start:place]])[0]
        if not is_half or place - start >= _LONGEST_CHARACTER or place == len(tokens):
            ends.append(place)
            start = place
    return ends


def _run_ends(cuts: Sequence[int], weights: NDArray[np.float32]) -> list[int]:
    """Of the places where the text may be cut, those where the weight changes, and the end."""
    starts = [0, *cuts[:-1]]
    return [
        cut
        for number, cut in enumerate(cuts)
        if cut == cuts[-1] or weights[starts[number]] != weights[starts[number + 1]]
    ]
