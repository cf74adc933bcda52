"""The renderer: conversations to prompts, answers to messages."""

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith.aio import Suite
from tinsmith.renderer.v1 import ParsedResponse, ParseResponsesRequest, RenderPromptsRequest
from tinsmith.types.v1 import Conversation, StopCondition
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.wire import from_message, to_message
from tinsmith_server.orchestrator.ragged import Ragged


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How conversations become tokens."""

    model: str
    """Names the tokenizer."""
    renderer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """Prompts as a sampler takes them."""

    tokens: Ragged
    """int32, one row a prompt."""
    stop: StopCondition
    format: Format


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """Answers as messages, in order."""

    responses: Sequence[ParsedResponse]

    def text(self, number: int) -> str:
        """One of them as text."""
        return self.responses[number].message.content


class Renderer:
    """Renders and parses."""

    def __init__(self, suite: Suite, call: Caller) -> None:
        self._suite = suite
        self._call = call

    async def prompts(
        self, conversations: Sequence[Conversation], format: Format, stop_strings: Sequence[str] = ()
    ) -> Prompts:
        """A prompt for each conversation. `stop_strings` end an answer besides the format's own."""
        request = RenderPromptsRequest(model=format.model, renderer=format.renderer, conversations=conversations)
        answer = await self._call("renderer", self._suite.renderer.RenderPrompts, request)
        stop = StopCondition(
            strings=[*answer.stop.strings, *(text for text in stop_strings if text not in answer.stop.strings)],
            token_ids=answer.stop.token_ids,
        )
        return Prompts(tokens=from_message(answer.tokens), stop=stop, format=format)

    async def parse(self, answers: Ragged, format: Format) -> Said:
        """Answers, one row of token ids each, as messages."""
        request = ParseResponsesRequest(model=format.model, renderer=format.renderer, tokens=to_message(answers))
        answer = await self._call("renderer", self._suite.renderer.ParseResponses, request)
        return Said(responses=answer.responses)
