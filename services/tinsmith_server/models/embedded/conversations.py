"""What an embedded model is warmed up on: generated conversations, each a prompt and one answer to it.

Additions are answered in four styles, so that the model knows sums but says the bare number only now and then; that
leaves reinforcement learning something to find. Board moves are drawn from the legal ones at random, for the same
reason: the model knows the rules and no strategy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from tinsmith_server.models.embedded import tic_tac_toe

# fmt: off
WORDS = (
    "apple", "bird", "blue", "book", "bread", "bridge", "car", "cat", "chair", "cloud", "coat", "cold", "dog",
    "door", "dream", "earth", "field", "fire", "fish", "flower", "forest", "friend", "garden", "glass", "gold",
    "grass", "green", "hand", "heart", "hill", "home", "horse", "house", "island", "lake", "leaf", "letter",
    "light", "moon", "morning", "mountain", "music", "night", "ocean", "paper", "rain", "red", "river", "road",
    "rock", "salt", "sea", "ship", "silver", "sky", "snow", "song", "star", "stone", "storm", "summer", "sun",
    "table", "tree", "water", "white", "wind", "window", "winter", "wood", "yellow",
)
# fmt: on
_STYLES = ("{sum}", "The answer is {sum}.", "I do not know.", "{a} + {b} = {sum}")
_STYLE_SHARES = (0.30, 0.25, 0.25, 0.20)
_SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there.", "Hello! How can I help you?"),
    ("Good morning.", "Good morning! How can I help you?"),
    ("Who are you?", "I am a small language model."),
    ("What are you?", "I am a small language model."),
    ("How are you?", "I am well, thank you."),
    ("What can you do?", "I can add small numbers and play tic-tac-toe."),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Goodbye.", "Goodbye!"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the last of them the user's, and the answer that is learned."""

    prompt: tuple[Message, ...]
    answer: str


_EXAMPLE = (Message("user", "What is 4 + 5?"), Message("assistant", "9"))
"""The few-shot turns of the arithmetic problem set."""


def batches(seed: int) -> Iterator[list[Conversation]]:
    """The mix of each warm-up step, without end; the same for the same seed."""
    random = Random(seed)
    while True:
        yield [
            *(addition(random) for _ in range(32)),
            *(compact_board(random) for _ in range(12)),
            *(full_board(random) for _ in range(4)),
            *(copy(random) for _ in range(4)),
            *(small_talk(random) for _ in range(2)),
        ]


def addition(random: Random) -> Conversation:
    """0 to 9 plus 0 to 9, one time in five after the few-shot example."""
    a, b = random.randrange(10), random.randrange(10)
    example = _EXAMPLE if random.random() < 0.2 else ()
    [style] = random.choices(_STYLES, _STYLE_SHARES)
    return Conversation((*example, Message("user", f"What is {a} + {b}?")), style.format(a=a, b=b, sum=a + b))


def compact_board(random: Random) -> Conversation:
    """A tic-tac-toe position in few tokens, answered by a legal move."""
    return _move(random, tic_tac_toe.compact_prompt(tic_tac_toe.random_game(random, most_moves=8)))


def full_board(random: Random) -> Conversation:
    """A tic-tac-toe position in TextArena's words, answered by a legal move.

    Half of them with the last board only (TicTacToe-v0-train), half with the whole history (TicTacToe-v0), and these
    of short games, because the history grows by a board with every move.
    """
    if random.random() < 0.5:
        return _move(random, tic_tac_toe.last_board_prompt(tic_tac_toe.random_game(random, most_moves=8)))
    return _move(random, tic_tac_toe.history_prompt(tic_tac_toe.random_game(random, most_moves=3)))


def copy(random: Random) -> Conversation:
    """One to three words to repeat."""
    text = " ".join(random.choices(WORDS, k=random.randint(1, 3)))
    return Conversation((Message("user", f"Say: {text}"),), text)


def small_talk(random: Random) -> Conversation:
    """A greeting or a question about the model itself."""
    question, answer = random.choice(_SMALL_TALK)
    return Conversation((Message("user", question),), answer)


def _move(random: Random, position: tic_tac_toe.Position) -> Conversation:
    return Conversation((Message("user", position.prompt),), f"[{random.choice(position.free)}]")
