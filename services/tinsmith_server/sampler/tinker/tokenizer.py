"""The tokenizer of a model at the service: the SDK finds it by the model's name and loads it here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import tinker

from tinsmith_server.serving.errors import FailedPrecondition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Tokenizer:
    """Token ids to text, and the token that ends a sequence."""

    def __init__(self, inner: "PreTrainedTokenizerBase") -> None:
        self._inner = inner
        self.eos = str(inner.eos_token)
        self.eos_id = int(inner.eos_token_id)

    @classmethod
    def of(cls, client: tinker.SamplingClient) -> "Tokenizer":
        """Loads it; blocks, and may download. FailedPrecondition with reason BACKEND_UNSUPPORTED when it can't."""
        try:
            return cls(client.get_tokenizer())
        except Exception as error:  # whatever a hub, a file or a tokenizer's own code may raise
            raise FailedPrecondition(
                f"the tokenizer of {client.get_base_model()!r} can't be loaded here, so neither text nor stops beside "
                "the model's own are to be had; ask for token ids",
                reason="BACKEND_UNSUPPORTED",
                metadata={"parameter": "return_text"},
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return str(self._inner.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
