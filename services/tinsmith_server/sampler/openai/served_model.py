"""A base model that a server has: what the server tells of it, and what its own files do.

The files are the configuration and the tokenizer, found as the local backend finds them; weights are not loaded. Text
is made here from token ids, so that it is the same whatever server answered.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinsmith_server.models import BaseModel, find_directory, load_tokenizer
from tinsmith_server.sampler.local.loader import TokenizerText
from tinsmith_server.sampler.openai.messages import ModelCard
from tinsmith_server.sampler.openai.reported import ReportedLogprobs
from tinsmith_server.sampler.text import Text
from tinsmith_server.serving.errors import FailedPrecondition, NotFound

_CONFIG, _GENERATION_CONFIG = "config.json", "generation_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One base model of the server; `validation.Bounds`, too."""

    name: str
    """As requests name it here."""
    remote: str
    """As the server names it."""
    architecture: str
    context: int
    vocabulary: int
    eos_ids: frozenset[int]
    text: Text
    reported: ReportedLogprobs


def match(
    models: Mapping[str, BaseModel], aliases: Mapping[str, str], cards: Sequence[ModelCard]
) -> dict[str, ModelCard]:
    """The server's entry for each base model: the one that the alias names, else the one with the model's name or
    location, else the one that says it came from there.

    NotFound with reason BASE_MODEL_NOT_FOUND, for the operator, where there is none.
    """
    found: dict[str, ModelCard] = {}
    bases = [card for card in cards if not card.parent]
    for name, model in models.items():
        wanted = {aliases[name]} if name in aliases else {name, model.location}
        fitting = [card for card in bases if card.id in wanted] or [card for card in bases if card.root in wanted]
        if not fitting:
            served = ", ".join(card.id for card in bases) or "none"
            raise NotFound(
                f"the model server has no {' or '.join(sorted(wanted))}; it has {served}; setting openai_models takes "
                f"{name}=MODEL OF THE SERVER",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": name, "served": served},
            )
        found[name] = fitting[0]
    return found


def load(model: BaseModel, card: ModelCard, reported: ReportedLogprobs, home: Path) -> ServedModel:
    """The model with its tokenizer. Blocks. NotFound BASE_MODEL_NOT_FOUND, FailedPrecondition BASE_MODEL_UNUSABLE."""
    directory = find_directory(model, home, weights=False)
    try:
        config = json.loads((directory / _CONFIG).read_text())
        inner = config.get("text_config", config)
        longest = int(inner["max_position_embeddings"])
        return ServedModel(
            name=model.name,
            remote=card.id,
            architecture=(config.get("architectures") or [""])[0],
            context=card.max_model_len or longest,
            vocabulary=int(inner["vocab_size"]),
            eos_ids=_eos_ids(directory, inner),
            text=TokenizerText(load_tokenizer(directory)),
            reported=reported,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FailedPrecondition(
            f"can't read {_CONFIG} of base model {model.name!r} in {directory}: {error!r}",
            reason="BASE_MODEL_UNUSABLE",
            metadata={"base_model": model.name},
        ) from error


def _eos_ids(directory: Path, config: Mapping[str, Any]) -> frozenset[int]:
    """The generation configuration's ids where it has some, as servers do it."""
    generation = directory / _GENERATION_CONFIG
    ids = json.loads(generation.read_text()).get("eos_token_id") if generation.is_file() else None
    ids = config.get("eos_token_id") if ids is None else ids
    return frozenset([ids] if isinstance(ids, int) else ids or ())
