"""Names of checkpoints: tinsmith://{model_id}/{training|sampler}/{name}.

No part may begin with a dot or hold a slash, so a URI can't name anything outside the storage root, nor the hidden
folders in which the store prepares its files.
"""

import re
from dataclasses import dataclass
from typing import Self

from tinsmith_server.serving.errors import InvalidArgument

TRAINING = "training"
"""Kind of a checkpoint with adapter, optimizer and step."""
SAMPLER = "sampler"
"""Kind of a checkpoint with the adapter alone."""

LATEST = "latest"
"""In place of a name: the newest checkpoint of its model and kind that is whole. No checkpoint has this name."""

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SCHEME = "tinsmith://"
_LONGEST_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointUri:
    """A checkpoint's name. InvalidArgument with reason BAD_CHECKPOINT_URI when a part is not allowed."""

    model_id: str
    kind: str
    """TRAINING or SAMPLER."""
    name: str

    def __post_init__(self) -> None:
        if not self.fits(model_id=self.model_id, name=self.name) or self.kind not in (TRAINING, SAMPLER):
            raise _bad(str(self))

    @property
    def is_latest(self) -> bool:
        """Whether it stands for whichever checkpoint is the newest whole one."""
        return self.name == LATEST

    @staticmethod
    def fits(*, model_id: str, name: str) -> bool:
        """Whether these may be parts of a URI."""
        return bool(_MODEL_ID.fullmatch(model_id) and _NAME.fullmatch(name))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a URI."""
        parts = text.removeprefix(_SCHEME).split("/")
        if not text.startswith(_SCHEME) or len(parts) != 3:
            raise _bad(text)
        return cls(model_id=parts[0], kind=parts[1], name=parts[2])

    def __str__(self) -> str:
        return f"{_SCHEME}{self.model_id}/{self.kind}/{self.name}"


def _bad(text: str) -> InvalidArgument:
    shown = text[:_LONGEST_SHOWN]
    return InvalidArgument(
        f"{shown!r} is no checkpoint URI; one is tinsmith://{{model_id}}/{{training|sampler}}/{{name}}, its parts made "
        "of letters, digits, '.', '_' and '-' (in a model id ':' too), at most 128 of them, none beginning with a sign",
        reason="BAD_CHECKPOINT_URI",
        metadata={"uri": shown},
    )
