"""Brings base models and their tokenizers into memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from tinsmith_server.models import BaseModel, find_directory, load_causal_lm, load_tokenizer
from tinsmith_server.models.llama_family import is_plain_member
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.local.backend import LoadedModel
from tinsmith_server.sampler.local.causal import CausalModel
from tinsmith_server.sampler.local.hugging_face import HuggingFaceModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizerText:
    """See `text.Text`. Only decodes, which a tokenizer may do on several threads at once."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        # Cleaning spaces up would change text that a stream has already told.
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )


class ModelLoader:
    """Loads base models by name. Blocks; may build or download."""

    def __init__(
        self,
        models: Mapping[str, BaseModel],
        *,
        home: Path,
        device: str,
        dtype: str,
        prefill_tokens: int,
    ) -> None:
        self._models, self._home, self._device, self._dtype = models, home, device, dtype
        self._prefill_tokens = prefill_tokens

    def __call__(self, name: str) -> LoadedModel:
        """NotFound BASE_MODEL_NOT_FOUND, FailedPrecondition BASE_MODEL_UNUSABLE."""
        directory = find_directory(self._models[name], self._home)
        model = load_causal_lm(directory, device=self._device, dtype=self._dtype)
        return LoadedModel(model=self._causal(model, name), text=TokenizerText(load_tokenizer(directory)))

    def _causal(self, model: PreTrainedModel, name: str) -> CausalModel:
        if not is_plain_member(model):
            return HuggingFaceModel(model, name=name)
        return LlamaFamilyModel(model, name=name, prefill_tokens=self._prefill_tokens)
