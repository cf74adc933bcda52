"""A place in a list of tokens, and the count of what was made of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinsmith_server.grader.expression import Apply, Expression, NotParsed, TooComplex
from tinsmith_server.grader.lexer import Kind, Token

MOST_NESTING = 100
MOST_OPERATIONS = 2000
_ASSOCIATIVE = ("add", "multiply")


class Cursor:
    """What a recursive descent stands on; it goes no deeper and makes no more than is allowed."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self.place = 0
        self._depth = 0
        self._operations = 0

    @property
    def next(self) -> Token:
        """The token ahead."""
        return self._tokens[self.place]

    def sees(self, *texts: str) -> bool:
        """Whether the token ahead is one of these signs or commands."""
        return self.next.kind in (Kind.SIGN, Kind.COMMAND) and self.next.text in texts

    def take(self) -> str:
        """The text of the token ahead, which is then behind. The END stays."""
        token = self.next
        self.place += token.kind is not Kind.END
        return token.text

    def takes(self, text: str) -> bool:
        """Takes the token ahead if it is this sign or command."""
        if not self.sees(text):
            return False
        self.place += 1
        return True

    def expect(self, text: str) -> None:
        """Takes this token, or raises NotParsed; an empty text is the end."""
        if self.next.text != text:
            raise NotParsed(f"{text or 'the end'} was expected at token {self.place + 1}")
        self.take()

    def apply(self, operation: str, *arguments: Expression) -> Expression:
        """A node of the tree. TooComplex when there are too many."""
        self._operations += 1
        if self._operations > MOST_OPERATIONS:
            raise TooComplex(f"more than {MOST_OPERATIONS} operations")
        return Apply(operation, arguments)

    def joined(self, operation: str, left: Expression, right: Expression) -> Expression:
        """The same for what may be written in any order: a long sum is one wide node, not a deep chain of nodes."""
        node = self.apply(operation, left, right)
        if isinstance(left, Apply) and left.operation == operation and operation in _ASSOCIATIVE:
            return Apply(operation, (*left.arguments, right))
        return node

    @contextmanager
    def nested(self) -> Iterator[None]:
        """One level further in. TooComplex when it is too deep."""
        self._depth += 1
        if self._depth > MOST_NESTING:
            raise TooComplex(f"nested more than {MOST_NESTING} deep")
        yield
        self._depth -= 1
