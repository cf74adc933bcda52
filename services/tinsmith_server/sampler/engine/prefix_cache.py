"""Keys and values of token sequences that were read lately, page by page, so that a prompt's beginning is read once.

A page is known by whose it is, which weights made it, and all tokens up to its end. A request's prompt finds the pages
of prompts, and of prompts with their answers, that begin alike: the next turn of a conversation reads only what is new.
The least recently used pages leave when there are too many bytes; a page never outlives the ones before it by recency,
because a chain is touched from its end to its beginning.

What a page holds does not depend on who computed it (`attention.py`), so a hit changes no bit of any answer.
"""

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.attention import PAGE


class PrefixCache:
    """Pages, each [2, L, H, PAGE, D]. Used on the torch thread only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: OrderedDict[bytes, Tensor] = OrderedDict()
        self.held_bytes = 0
        """Memory of all pages."""

    def find(self, version: str, tokens: NDArray[np.int32]) -> list[Tensor]:
        """The known pages at the beginning of `tokens`; they end before its last token, whose logits are wanted."""
        found = []
        keys = []
        for key in _keys(version, tokens[: len(tokens) - 1]):
            if key not in self._pages:
                break
            keys.append(key)
            found.append(self._pages[key])
        for key in reversed(keys):
            self._pages.move_to_end(key)
        return found

    def keep(self, version: str, tokens: NDArray[np.int32], page: Callable[[int], Tensor]) -> None:
        """Remembers the whole pages of `tokens`; `page(i)` gives the i-th, and is copied where it is not known yet."""
        if self._limit_bytes == 0:
            return
        keys = _keys(version, tokens)
        for number in reversed(range(len(keys))):
            if keys[number] not in self._pages:
                copied = page(number).clone()
                self._pages[keys[number]] = copied
                self.held_bytes += copied.nbytes
            self._pages.move_to_end(keys[number])
        while self.held_bytes > self._limit_bytes:
            _, oldest = self._pages.popitem(last=False)
            self.held_bytes -= oldest.nbytes


def _keys(version: str, tokens: NDArray[np.int32]) -> list[bytes]:
    """One key for each whole page of `tokens`."""
    digest = blake2b(version.encode(), digest_size=16)
    keys = []
    for end in range(PAGE, len(tokens) + 1, PAGE):
        digest.update(tokens[end - PAGE : end].tobytes())
        keys.append(digest.copy().digest())
    return keys
