"""The tokenizers of this process, and the formats made for each."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tinsmith_server.dataset.renderers.renderer import RENDERERS, Renderer, find_renderer
from tinsmith_server.dataset.renderers.tokenizer import SharedTokenizer, Tokenizer
from tinsmith_server.models import BaseModel, find_directory, load_tokenizer, parse_base_models
from tinsmith_server.serving.errors import FailedPrecondition, NotFound

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Desk:
    """One tokenizer and its formats, which are made when first asked for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = SharedTokenizer(tokenizer)
        self._renderers: dict[str, Renderer] = {}

    async def render(self, renderer: str, work: Callable[[Renderer], T], *, size: int) -> T:
        """Does `work` with a format; `size` is about how many characters or tokens it handles.

        NotFound with reason RENDERER_NOT_FOUND for an unknown format.
        """
        name = find_renderer(renderer)
        return await self.tokenizer.run(lambda tokenizer: work(self._renderer(name, tokenizer)), size=size)

    def _renderer(self, name: str, tokenizer: Tokenizer) -> Renderer:
        if name not in self._renderers:
            self._renderers[name] = RENDERERS[name].make(tokenizer)
        return self._renderers[name]


class Shelf:
    """The tokenizers by the name that requests use."""

    def __init__(self, base_models: Sequence[str], home: Path) -> None:
        self._entries = base_models
        self._home = home
        self._desks: dict[str, Desk] = {}

    async def load(self) -> None:
        """Finds and loads every tokenizer; an embedded model is built when it is not there yet.

        FailedPrecondition with reason BAD_BASE_MODELS when the setting can't be read.
        """
        # Their own threads cost short texts more than they give, and this machine's cores belong to others too.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        for name, model in self._models().items():
            self._desks[name] = Desk(await asyncio.to_thread(_load, model, self._home))
            _log.info("tokenizer of %s is loaded", name)

    def desk(self, model: str) -> Desk:
        """The tokenizer of a model. NotFound with reason TOKENIZER_NOT_FOUND lists those that are served."""
        if model not in self._desks:
            raise NotFound(
                f"no tokenizer of {model!r} here; there are {', '.join(self._desks) or 'none'}; "
                "setting base_models of the dataset process adds some",
                reason="TOKENIZER_NOT_FOUND",
                metadata={"model": model, "models": ",".join(self._desks)},
            )
        return self._desks[model]

    def close(self) -> None:
        for desk in self._desks.values():
            desk.tokenizer.close()

    def _models(self) -> Mapping[str, BaseModel]:
        try:
            return parse_base_models(self._entries)
        except ValueError as error:
            raise FailedPrecondition(f"setting base_models: {error}", reason="BAD_BASE_MODELS") from error


def _load(model: BaseModel, home: Path) -> Tokenizer:
    directory = find_directory(model, home)
    return Tokenizer(model.name, load_tokenizer(directory), directory)
