"""The first talk with a server: is it there, of which kind is it, which models has it, what do its logprobs mean."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinsmith_server.models import BaseModel
from tinsmith_server.sampler.openai import served_model
from tinsmith_server.sampler.openai.client import Client
from tinsmith_server.sampler.openai.dialect import Dialect, dialect_of
from tinsmith_server.sampler.openai.failures import is_retried
from tinsmith_server.sampler.openai.messages import ModelCard, ModelList, parse
from tinsmith_server.sampler.openai.reported import find_out
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.serving.errors import ServiceError, Unavailable

_log = logging.getLogger(__name__)
_PAUSE_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is looked for."""

    base_models: Mapping[str, BaseModel]
    aliases: Mapping[str, str]
    """Name of a base model -> name that the server has for it."""
    kind: str
    """Of the server: a `dialect.Kind`, or "auto"."""
    home: Path
    patience_s: float
    """How long a server that is not there yet is waited for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovered:
    """What was found."""

    dialect: Dialect
    models: Mapping[str, ServedModel]
    """By the name that requests use."""
    cards: Sequence[ModelCard]
    """All that the server lists, adapters too."""


async def discover(client: Client, wanted: Wanted) -> Discovered:
    """Waits for the server and looks around.

    Errors as `failures.py` has them; NotFound with reason BASE_MODEL_NOT_FOUND when a base model is not there.
    """
    cards = parse(ModelList, await _when_there(client, wanted.patience_s)).data
    found = served_model.match(wanted.base_models, wanted.aliases, cards)
    dialect = dialect_of(wanted.kind, next((card.owned_by for card in found.values()), ""))
    _log.info("the model server is of kind %s and has %s", dialect.kind, ", ".join(card.id for card in cards))
    models = {}
    for name, card in found.items():
        reported = await find_out(client, card.id, dialect)
        models[name] = await asyncio.to_thread(served_model.load, wanted.base_models[name], card, reported, wanted.home)
    return Discovered(dialect=dialect, models=models, cards=cards)


async def _when_there(client: Client, patience_s: float) -> bytes:
    """The content of /models. What is waited for is said once, and again when it is something else."""
    ends, told = time.monotonic() + patience_s, ""
    while True:
        try:
            return await client.get("models")
        except ServiceError as error:
            where = f"the model server is sought at {client.base_url} (setting openai_base_url)"
            if not is_retried(error):
                raise
            if time.monotonic() >= ends:
                raise Unavailable(f"{where}: {error.message}", reason=error.reason) from error
            if error.message != told:
                _log.info("%s for up to %g s: %s", where, patience_s, error.message)
                told = error.message
        await asyncio.sleep(_PAUSE_S)
