"""What a format has to do: conversations to tokens, to tokens with weights, and sampled tokens back to a message."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinsmith_server.dataset.renderers.chat_template import ChatTemplate
from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import Conversation, Parsed, Stop, ToolSpec
from tinsmith_server.dataset.renderers.role_colon import RoleColon
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.training import TrainOnWhat
from tinsmith_server.serving.errors import NotFound


class Renderer(Protocol):
    """A format for the tokenizer that it was made with. Not to be used by two threads at a time."""

    has_extension_property: bool
    """Whether a rendered conversation is a prefix of the same conversation with more turns."""
    supports_tools: bool
    stop: Stop
    """Where an answer in this format ends."""

    def prompts(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], prefill: str
    ) -> list[list[int]]:
        """Token ids of each conversation up to where the assistant answers; the answer begins with `prefill`."""

    def examples(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], mode: TrainOnWhat
    ) -> list[list[Example]]:
        """Of each conversation the examples that train what `mode` says, at least one."""

    def parse(self, answers: Sequence[Sequence[int]]) -> list[Parsed]:
        """Sampled tokens, one sequence an answer, as messages of the assistant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RendererKind:
    """A format before it is made for a tokenizer."""

    description: str
    make: Callable[[Tokenizer], Renderer]


RENDERERS: Mapping[str, RendererKind] = {
    "chat_template": RendererKind(
        description="the tokenizer's own chat template; tools and reasoning as the template has them", make=ChatTemplate
    ),
    "role_colon": RendererKind(
        description='"User: ...", "Assistant: ..." paragraphs, for base models; any tokenizer, no tools', make=RoleColon
    ),
}


def find_renderer(name: str) -> str:
    """The name of a format; empty means "chat_template". NotFound with reason RENDERER_NOT_FOUND lists them."""
    if (name or "chat_template") not in RENDERERS:
        raise NotFound(
            f"no renderer {name!r}; there are {', '.join(RENDERERS)}",
            reason="RENDERER_NOT_FOUND",
            metadata={"renderer": name, "renderers": ",".join(RENDERERS)},
        )
    return name or "chat_template"
