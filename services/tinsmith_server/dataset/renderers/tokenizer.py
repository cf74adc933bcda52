"""A tokenizer: text to ids and back, and its chat template.

Tokenizers are not safe under concurrent calls (they raise "Already borrowed"), so each has a lock. Short work is done
on the event loop when the lock is free; all other work waits its turn on the tokenizer's own thread.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from jinja2 import TemplateError
from numpy.typing import NDArray

from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument

_SHORT = 16_384
"""Characters or tokens that take a few milliseconds."""

T = TypeVar("T")


class Tokenizer:
    """A tokenizer of `transformers` with what its model directory says. Not to be used by two threads at a time."""

    def __init__(self, name: str, inner: Any, directory: Path) -> None:
        """`inner` is a fast tokenizer of `transformers`. FailedPrecondition with reason TOKENIZER_UNSUPPORTED for one
        that is not: it can't tell where its tokens lie in a text."""
        if not inner.is_fast:
            raise FailedPrecondition(
                f"the tokenizer of {name} has no tokenizer.json; convert it with transformers first",
                reason="TOKENIZER_UNSUPPORTED",
                metadata={"model": name},
            )
        config = _config(directory)
        self.name = name
        self.context_length: int = config.get("max_position_embeddings") or _limit_of(inner)
        """Longest sequence of its model; 0 when unknown."""
        self.vocabulary: int = max(len(inner), config.get("vocab_size") or 0)
        self.eos_id: int | None = inner.eos_token_id
        self.bos_id: int | None = inner.bos_token_id
        self.special_ids: frozenset[int] = frozenset(inner.all_special_ids)
        self._inner = inner
        # The Rust tokenizer itself: the layer above it costs more than it does for short texts.
        self._backend: tokenizers.Tokenizer = inner.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()

    @property
    def template(self) -> str:
        """The chat template, or all of them one after the other; empty when there is none."""
        template = self._inner.chat_template
        return "".join(template.values()) if isinstance(template, dict) else template or ""

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of each text."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_with_starts(self, texts: Sequence[str]) -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
        """Of each text its token ids, int32 [tokens], and where in the text each token begins, int64 [tokens]."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 0])
            for encoding in encodings
        ]

    def decode(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of token ids."""
        if self._inner.clean_up_tokenization_spaces:
            cleaned: list[str] = self._inner.batch_decode(rows, skip_special_tokens=skip_special_tokens)
            return cleaned
        return self._backend.decode_batch(list(rows), skip_special_tokens=skip_special_tokens)

    def render(
        self, conversations: Sequence[Sequence[Any]], *, tools: Sequence[Any], add_generation_prompt: bool
    ) -> list[str]:
        """Conversations of plain dicts by the chat template.

        FailedPrecondition with reason NO_CHAT_TEMPLATE; InvalidArgument with reason TEMPLATE_REFUSED and what the
        template says.
        """
        if not self.template:
            raise FailedPrecondition(
                f'the tokenizer of {self.name} has no chat template; use the renderer "role_colon"',
                reason="NO_CHAT_TEMPLATE",
                metadata={"model": self.name},
            )
        if not conversations:
            return []
        try:
            rendered: list[str] = self._inner.apply_chat_template(
                conversations,
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidArgument(
                f"the chat template of {self.name} refuses the conversation: {error}",
                reason="TEMPLATE_REFUSED",
                metadata={"model": self.name, "error": str(error)},
            ) from error
        return rendered


class SharedTokenizer:
    """A tokenizer that many calls use, one at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name = tokenizer.name
        self.context_length = tokenizer.context_length
        self.vocabulary = tokenizer.vocabulary
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def run(self, work: Callable[[Tokenizer], T], *, size: int) -> T:
        """Does `work`, which handles about `size` characters or tokens, without holding up the event loop."""
        if size <= _SHORT and self._lock.acquire(blocking=False):
            try:
                return work(self._tokenizer)
            finally:
                self._lock.release()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._locked, work)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _locked(self, work: Callable[[Tokenizer], T]) -> T:
        with self._lock:
            return work(self._tokenizer)


def _config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("text_config") or config


def _limit_of(inner: Any) -> int:
    # `transformers` says "no limit" with a number of thirty digits.
    limit = int(getattr(inner, "model_max_length", 0) or 0)
    return limit if limit < 1 << 31 else 0
