"""Token ids to text: what the sampler needs of a tokenizer."""

from collections.abc import Sequence
from typing import Protocol


class Text(Protocol):
    """Decodes token ids."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of the ids, with or without special tokens."""
        ...
