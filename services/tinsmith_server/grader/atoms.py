"""What a formula is made of: numbers, names, brackets, functions, matrices."""

from abc import ABC, abstractmethod
from fractions import Fraction

from tinsmith_server.grader.cursor import Cursor
from tinsmith_server.grader.expression import (
    Apply,
    Constant,
    Expression,
    Group,
    Matrix,
    NotParsed,
    Number,
    Symbol,
    TooComplex,
)
from tinsmith_server.grader.lexer import FUNCTIONS, GREEK, Kind, Token

_LARGEST_EXPONENT_OF_TEN = 400
_CONSTANTS = {"pi": "pi", "e": "e", "i": "i", "infty": "oo", "infinity": "oo", "inf": "oo", "oo": "oo"}
_CLOSING = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",)}
_SET = ("set", "set")
_FENCES = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceiling"), "lvert": ("rvert", "abs")}
_BINOMIALS = ("binom", "dbinom", "tbinom")
_ENVIRONMENTS = tuple(f"begin{{{kind}matrix}}" for kind in ("", "p", "b", "v", "B"))
_ATOM_COMMANDS = frozenset(
    {*FUNCTIONS, *GREEK, *_FENCES, *_BINOMIALS, *_ENVIRONMENTS}
    | {"pi", "infty", "frac", "{", "emptyset", "varnothing", "mathbb"}
)


class Atoms(Cursor, ABC):
    """The half of the parser that begins with a token; the other half, which puts atoms together, is a subclass."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self._bars = 0

    @abstractmethod
    def items(self) -> tuple[Expression, ...]:
        """Statements between commas."""

    @abstractmethod
    def sum(self) -> Expression:
        """Terms and their signs."""

    @abstractmethod
    def factor(self) -> Expression:
        """An atom with its postfixes and its exponent."""

    @abstractmethod
    def exponent(self) -> Expression:
        """What follows `^`."""

    def starts_atom(self) -> bool:
        """Whether the token ahead begins an atom, so that it multiplies what is behind."""
        match self.next.kind:
            case Kind.NUMBER | Kind.WORD:
                return True
            case Kind.SIGN:
                return self.next.text in "([{" or (self.next.text == "|" and not self._bars)
            case Kind.COMMAND:
                return self.next.text in _ATOM_COMMANDS
            case _:
                return False

    def signed_factor(self) -> Expression:
        """A factor that may have a sign."""
        if self.takes("-"):
            return self.apply("negate", self.factor())
        self.takes("+")
        return self.factor()

    def atom(self) -> Expression:
        kind, text = self.next.kind, self.take()
        match kind:
            case Kind.NUMBER:
                return _number(text)
            case Kind.WORD:
                return self._named(text)
            case Kind.COMMAND:
                return self._commanded(text)
            case Kind.SIGN:
                with self.nested():
                    return self._bracketed(text)
            case _:
                raise NotParsed("it ends too early")

    def _bracketed(self, opening: str) -> Expression:
        if opening == "|":
            self._bars += 1
            inner = self.sum()
            self._bars -= 1
            self.expect("|")
            return self.apply("abs", inner)
        if opening not in _CLOSING:
            raise NotParsed(f"token {self.place} stands where a value was expected")
        bars, self._bars = self._bars, 0
        items = self.items()
        self._bars = bars
        closing = self.take()
        if closing not in _CLOSING[opening]:
            raise NotParsed("brackets do not match")
        if len(items) == 1 and (opening, closing) in {("(", ")"), ("[", "]"), ("{", "}")}:
            return items[0]
        return Group(*(_SET if opening == "{" else (opening, closing)), items)

    def _set(self) -> Expression:
        if self.takes("}"):
            return Group(*_SET, ())
        with self.nested():
            items = self.items()
        if not (self.next.kind is Kind.COMMAND and self.take() == "}"):
            raise NotParsed("a set is not closed")
        return Group(*_SET, items)

    def _named(self, word: str) -> Expression:
        if word in FUNCTIONS:
            return self._function(word)
        if word in _CONSTANTS and not self.sees("_"):
            return Constant(_CONSTANTS[word])
        return Symbol(word + self._subscript())

    def _subscript(self) -> str:
        if not self.takes("_"):
            return ""
        if not self.takes("{"):
            return f"_{self._subscript_token()}"
        name = "_"
        while not self.takes("}"):
            name += self._subscript_token()
        return name

    def _subscript_token(self) -> str:
        if self.next.kind not in (Kind.NUMBER, Kind.WORD):
            raise NotParsed("a subscript is not a name or a number")
        return self.take()

    def _commanded(self, name: str) -> Expression:
        if name in FUNCTIONS:
            return self._function(name)
        if name in GREEK:
            return Symbol(name + self._subscript())
        if name in _CONSTANTS:
            return Constant(_CONSTANTS[name])
        if name in _FENCES:
            closing, operation = _FENCES[name]
            with self.nested():
                inner = self.sum()
            self.expect(closing)
            return self.apply(operation, inner)
        match name:
            case "frac":
                return self.apply("divide", self._braced(), self._braced())
            case _ if name in _BINOMIALS:
                return self.apply("binomial", self._braced(), self._braced())
            case "{":
                return self._set()
            case "emptyset" | "varnothing":
                return Group(*_SET, ())
            case "mathbb":
                return self._number_set()
            case _ if name.startswith("begin"):
                return self._matrix(name.removeprefix("begin"))
            case _:
                raise NotParsed(f"token {self.place} stands where a value was expected")

    def _number_set(self) -> Expression:
        self.expect("{")
        name = self.take()
        self.expect("}")
        if name == "R":
            infinity = Constant("oo")
            return Group("(", ")", (Apply("negate", (infinity,)), infinity))
        return Symbol(f"mathbb {name}")

    def _braced(self) -> Expression:
        if self.next.kind is Kind.NUMBER and len(self.next.text) > 1:
            raise NotParsed("a fraction of digits without braces")
        return self.atom()

    def _function(self, name: str) -> Expression:
        if name == "sqrt":
            return self._root()
        base = self.atom() if name == "log" and self.takes("_") else None
        power = self.exponent() if self.takes("^") else None
        argument = self._argument()
        value = self.apply(name, argument) if base is None else self.apply("log_base", argument, base)
        if power is None:
            return value
        if power == Apply("negate", (Number(Fraction(1)),)) and name in ("sin", "cos", "tan"):
            return self.apply(f"arc{name}", argument)
        return self.apply("power", value, power)

    def _argument(self) -> Expression:
        """What a function applies to: one bracket, or factors up to the next sign or function."""
        if self.sees("(", "[", "{", "|"):
            return self.atom()
        if not (self.starts_atom() or self.sees("-")):
            raise NotParsed("a function without an argument")
        with self.nested():
            argument = self.signed_factor()
        while self.starts_atom() and self.next.text not in (*FUNCTIONS, "("):
            argument = self.apply("multiply", argument, self.factor())
        return argument

    def _root(self) -> Expression:
        degree: Expression = Number(Fraction(2))
        if self.takes("["):
            degree = self.sum()
            self.expect("]")
        radicand = self.atom()
        return self.apply("power", radicand, self.apply("divide", Number(Fraction(1)), degree))

    def _matrix(self, environment: str) -> Expression:
        rows = [self._row()]
        while self.takes("\\"):
            if self.sees(f"end{environment}"):
                break
            rows.append(self._row())
        self.expect(f"end{environment}")
        if len({len(row) for row in rows}) != 1:
            raise NotParsed("a matrix of uneven rows")
        return Matrix(tuple(rows))

    def _row(self) -> tuple[Expression, ...]:
        entries = [self.sum()]
        while self.takes("&"):
            entries.append(self.sum())
        return tuple(entries)


def _number(text: str) -> Number:
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > _LARGEST_EXPONENT_OF_TEN:
        raise TooComplex("a number with a large exponent")
    value = Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)
    return Number(value, is_exact="." not in mantissa and not exponent)
