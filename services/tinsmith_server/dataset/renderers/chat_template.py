"""The format `chat_template`: the one that the tokenizer itself carries.

A template is a program without an inverse, so what must be known of it is learnt by rendering: where an answer ends
(what follows a marker in the place of an answer), where a message's header ends (the generation prompt, or what
precedes a marker), whether a conversation's text is a prefix of the text with more turns. Where it is not, a
conversation becomes several examples, each as long as its text is stable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.dataset.renderers.chatml import Markup, read_answer
from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import Conversation, Message, Parsed, Stop, Termination, ToolSpec
from tinsmith_server.dataset.renderers.template_input import template_message, template_tool
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.training import TrainOnWhat, trained_messages
from tinsmith_server.serving.errors import InvalidArgument, ServiceError

_MARKER = "tinsmith-marks-this-place"
_ASK = Message(role="user", content="a")
_THOUGHT = Message(role="assistant", content="b", thinking="c")
_TOOL = ToolSpec(name="probe", description="d", parameters_json="")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A message's own text, text[start:stop], in the text of the conversation up to it."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The text of an example and the parts of it that count, as (start, stop)."""

    text: str
    counted: Sequence[tuple[int, int]]


class ChatTemplate:
    """See the module; `Renderer` has the contract."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        trailer = self._text([_ASK, Message(role="assistant", content=_MARKER)]).rpartition(_MARKER)[2]
        self._stop_text, self._stop_id = self._stop_of(trailer)
        self._markup = Markup(thoughts="</think>" in tokenizer.template, tool_calls="<tool_call>" in tokenizer.template)
        self._opening = self._opened_thoughts()
        self.stop = self._stop_condition()
        turns = [_ASK, _THOUGHT]
        self.has_extension_property = self._text([*turns, _ASK, _THOUGHT]).startswith(self._text(turns))
        self.supports_tools = self._reads_tools()

    def prompts(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], prefill: str
    ) -> list[list[int]]:
        texts = self._texts(conversations, tools, add_generation_prompt=True)
        return self._tokenizer.encode([text + prefill for text in texts] if prefill else texts)

    def examples(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], mode: TrainOnWhat
    ) -> list[list[Example]]:
        plans = [self._plans(messages, tools, mode) for messages in conversations]
        encoded = iter(self._tokenizer.encode_with_starts([plan.text for group in plans for plan in group]))
        return [[_example(plan, *next(encoded)) for plan in group] for group in plans]

    def parse(self, answers: Sequence[Sequence[int]]) -> list[Parsed]:
        ends = [self._end_of(answer) for answer in answers]
        kept = [answer[:length] for answer, (length, _) in zip(answers, ends, strict=True)]
        texts = self._tokenizer.decode(kept)
        return [self._parsed(text, termination) for text, (_, termination) in zip(texts, ends, strict=True)]

    def _parsed(self, text: str, termination: Termination) -> Parsed:
        if self._stop_id is None and self._stop_text and self._stop_text in text:
            text, termination = text.partition(self._stop_text)[0], Termination.STOP_SEQUENCE
        return Parsed(message=read_answer(self._opening + text, self._markup), termination=termination)

    def _end_of(self, answer: Sequence[int]) -> tuple[int, Termination]:
        """Tokens before the one that ends the answer, and how it ended."""
        for token, termination in (
            (self._stop_id, Termination.STOP_SEQUENCE),
            (self._tokenizer.eos_id, Termination.EOS),
        ):
            if token is not None and token in answer:
                place = answer.index(token)
                return place, termination if place == len(answer) - 1 else Termination.MALFORMED
        return len(answer), Termination.MALFORMED

    # What an example counts.

    def _plans(self, messages: Conversation, tools: Sequence[ToolSpec], mode: TrainOnWhat) -> list[_Plan]:
        """Examples that hold every trained message; consecutive ones share an example as far as the text is stable."""
        whole = self._text(messages, tools)
        if mode is TrainOnWhat.ALL_TOKENS:
            return [_Plan(text=whole, counted=[(0, len(whole))])]
        chains: list[list[_Span]] = []
        for number in trained_messages(messages, mode):
            span = self._span(messages, number, tools)
            if chains and span.text.startswith(chains[-1][-1].text):
                chains[-1].append(span)
            else:
                chains.append([span])
        plans = [_Plan(text=chain[-1].text, counted=[(s.start, s.stop) for s in chain]) for chain in chains]
        if not plans:
            return [_Plan(text=whole, counted=[])]
        if whole.startswith(plans[-1].text):
            plans[-1] = replace(plans[-1], text=whole)
        return plans

    def _span(self, messages: Conversation, number: int, tools: Sequence[ToolSpec]) -> _Span:
        text = self._text(messages[: number + 1], tools)
        end = text.rfind(self._stop_text) if self._stop_text else -1
        stop = end + len(self._stop_text) if end >= 0 else len(text)
        if messages[number].role == "assistant" and number > 0:
            prompt = self._text(messages[:number], tools, add_generation_prompt=True)
            return _Span(text=text, start=_shared(prompt, text), stop=stop)
        return _Span(text=text, start=self._header_end(text, messages, number, tools), stop=stop)

    def _header_end(self, text: str, messages: Conversation, number: int, tools: Sequence[ToolSpec]) -> int:
        marked = replace(messages[number], content=_MARKER, thinking="", tool_calls=(), unparsed_tool_calls=())
        header, found, _ = self._text([*messages[:number], marked], tools).partition(_MARKER)
        if not found or not text.startswith(header):
            raise InvalidArgument(
                f"the chat template of {self._tokenizer.name} does not show where the text of message {number} begins; "
                "count tokens of all messages or of the assistant only",
                reason="TEMPLATE_REFUSED",
                metadata={"model": self._tokenizer.name, "message": str(number)},
            )
        return len(header)

    # What is to be known of the template.

    def _text(
        self, messages: Conversation, tools: Sequence[ToolSpec] = (), *, add_generation_prompt: bool = False
    ) -> str:
        return self._texts([messages], tools, add_generation_prompt=add_generation_prompt)[0]

    def _texts(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], *, add_generation_prompt: bool
    ) -> list[str]:
        plain = [[template_message(message) for message in messages] for messages in conversations]
        tools_ = [template_tool(tool) for tool in tools]
        return self._tokenizer.render(plain, tools=tools_, add_generation_prompt=add_generation_prompt)

    def _stop_of(self, trailer: str) -> tuple[str, int | None]:
        """The text and, where it is one special token, the id of what ends an answer."""
        ids = self._tokenizer.encode([trailer])[0] if trailer else []
        if ids and ids[0] in {*self._tokenizer.special_ids, self._tokenizer.eos_id}:
            return self._tokenizer.decode([ids[:1]])[0], ids[0]
        return trailer.strip(), None

    def _stop_condition(self) -> Stop:
        if self._stop_id is not None:
            return Stop(token_ids=(self._stop_id,))
        return Stop(strings=(self._stop_text,)) if self._stop_text else Stop()

    def _opened_thoughts(self) -> str:
        """Some templates end the generation prompt with an opened think block, which the answer then lacks."""
        prompt = self._text([_ASK], add_generation_prompt=True)
        return "<think>\n" if prompt.rstrip().endswith("<think>") else ""

    def _reads_tools(self) -> bool:
        try:
            return self._text([_ASK], [_TOOL]) != self._text([_ASK])
        except ServiceError:  # a template may refuse tools outright
            return False


def _shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    if second.startswith(first):
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _example(plan: _Plan, tokens: NDArray[np.int32], starts: NDArray[np.int64]) -> Example:
    counted = np.zeros(len(tokens), bool)
    for start, stop in plan.counted:
        counted |= (starts >= start) & (starts < stop)
    return Example(tokens=tokens, weights=counted.astype(np.float32))
