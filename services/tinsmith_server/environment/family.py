"""What a family of environments is to the rest of the room. A new family is one file that fits `Family`.

Conversations and problems pass through this room as the messages of the contract that they came as: most families
hand them on unread.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from tinsmith.types.v1 import Message, Problem


class EpisodeEnd(Enum):
    """Why an episode ended, as the contract has it."""

    COMPLETED = auto()
    MAX_STEPS = auto()
    ILLEGAL_MOVE = auto()
    TIMEOUT = auto()
    FAILED = auto()


class Termination(Enum):
    """How an answer ended, as its renderer read it."""

    UNKNOWN = auto()
    STOP_SEQUENCE = auto()
    EOS = auto()
    MALFORMED = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvironmentSummary:
    """An environment as it is listed."""

    name: str
    family: str
    description: str
    min_seats: int = 1
    max_seats: int = 1
    unavailable_reason: str = ""
    """Empty when it can run here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Episodes that are to begin in the same state."""

    seed: int
    size: int
    problem: Problem | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What the seat to move sees."""

    seat: int
    messages: Sequence[Message]
    """The conversation from that seat's side; the last message is for it to answer."""
    stop_strings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A group that has begun."""

    observation: Observation
    states: Sequence[Any]
    """One an episode; what it is, only the family knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """What a seat says in an episode."""

    episode_id: str
    seat: int
    text: str
    termination: Termination


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of an action. Exactly one of `end` and `observation` is set."""

    rewards: Sequence[float]
    """One a seat."""
    end: EpisodeEnd | None = None
    observation: Observation | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)


class Family(Protocol):
    """Environments that work alike."""

    asks_others: bool
    """Whether `act` calls another service, and so may fail as a whole. Such families act first in a batch, and `act`
    must change no state: then a call that failed can be repeated."""

    def summaries(self) -> Sequence[EnvironmentSummary]:
        """Its environments."""

    async def begin(self, setup: Any, groups: Sequence[Group]) -> Sequence[Start]:
        """Begins episodes; one Start a group. `setup` is what `wire` reads of the family's field of EnvironmentSpec."""

    async def act(self, states: Sequence[Any], actions: Sequence[Action]) -> Sequence[Outcome]:
        """Acts in many episodes at once, each with its state and the action of the seat to move; one Outcome each.

        A failure of one episode is its Outcome, with FAILED.
        """
