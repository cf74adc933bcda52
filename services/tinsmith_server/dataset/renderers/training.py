"""Which messages of a conversation training counts."""

from enum import IntEnum

from tinsmith_server.dataset.renderers.messages import Conversation
from tinsmith_server.serving.errors import InvalidArgument


class TrainOnWhat(IntEnum):
    """The numbers are those of the contract; see TrainOnWhat in `renderer_service.proto`."""

    LAST_ASSISTANT_MESSAGE = 1
    LAST_ASSISTANT_TURN = 2
    ALL_ASSISTANT_MESSAGES = 3
    ALL_MESSAGES = 4
    ALL_TOKENS = 5
    ALL_USER_AND_SYSTEM_MESSAGES = 6
    CUSTOMIZED = 7


def trained_messages(messages: Conversation, mode: TrainOnWhat) -> list[int]:
    """Positions of the messages whose text counts, rising. ALL_TOKENS counts every message and the headers too.

    InvalidArgument with reason LAST_MESSAGE_NOT_ASSISTANT when the mode needs the assistant to speak last.
    """
    match mode:
        case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            return [_last_assistant(messages)]
        case TrainOnWhat.LAST_ASSISTANT_TURN:
            return _of_roles(messages, {"assistant"}, start=_behind_last_user(messages))
        case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            return _of_roles(messages, {"assistant"})
        case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
            return _of_roles(messages, {"user", "system"})
        case TrainOnWhat.CUSTOMIZED:
            return [number for number, message in enumerate(messages) if message.trainable]
        case TrainOnWhat.ALL_MESSAGES | TrainOnWhat.ALL_TOKENS:
            return list(range(len(messages)))


def _last_assistant(messages: Conversation) -> int:
    if messages[-1].role != "assistant":
        raise InvalidArgument(
            f"the last message is of {messages[-1].role!r}; LAST_ASSISTANT_MESSAGE needs one of the assistant there",
            reason="LAST_MESSAGE_NOT_ASSISTANT",
            metadata={"role": messages[-1].role},
        )
    return len(messages) - 1


def _behind_last_user(messages: Conversation) -> int:
    return max((number + 1 for number, message in enumerate(messages) if message.role == "user"), default=0)


def _of_roles(messages: Conversation, roles: set[str], *, start: int = 0) -> list[int]:
    return [number for number, message in enumerate(messages) if number >= start and message.role in roles]
