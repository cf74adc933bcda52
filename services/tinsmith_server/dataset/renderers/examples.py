"""Whole conversations to examples, a slice at a time, so that short calls get their turn between slices."""

from collections.abc import Callable, Sequence

from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import Conversation, ToolSpec
from tinsmith_server.dataset.renderers.renderer import Renderer
from tinsmith_server.dataset.renderers.shelf import Desk
from tinsmith_server.dataset.renderers.training import TrainOnWhat

_SLICE = 64


async def render_examples(
    desk: Desk, renderer: str, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], mode: TrainOnWhat
) -> list[list[Example]]:
    """Of each conversation its examples, at least one. Raises what `Renderer.examples` raises."""
    # What is long as a whole leaves the event loop for all of its slices.
    size = sum(map(_cost, conversations))
    groups: list[list[Example]] = []
    for start in range(0, len(conversations), _SLICE):
        part = conversations[start : start + _SLICE]
        groups += await desk.render(renderer, _rendering(part, tools, mode), size=size)
    return groups


def _rendering(
    part: Sequence[Conversation], tools: Sequence[ToolSpec], mode: TrainOnWhat
) -> Callable[[Renderer], list[list[Example]]]:
    return lambda renderer: renderer.examples(part, tools, mode)


def _cost(messages: Conversation) -> int:
    # The text of each message is rendered again for each message behind it, and its tokens' places are looked up.
    return 2 * len(messages) * sum(len(message.content) + len(message.thinking) for message in messages)
