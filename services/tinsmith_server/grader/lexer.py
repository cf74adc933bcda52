"""Text into tokens. Only what is listed here passes: a quote, a dot between names or an unknown command ends it."""

import re
from dataclasses import dataclass
from enum import Enum

from tinsmith_server.grader.expression import NotParsed, TooComplex
from tinsmith_server.grader.plain_numbers import MOST_DIGITS

MOST_CHARS = 4096

FUNCTIONS = (
    *("arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc"),
    *("log", "ln", "lg", "exp", "sqrt", "abs"),
)
GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda"),
    *("mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega"),
    *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"),
)
_COMMANDS = frozenset(
    {
        *FUNCTIONS,
        *GREEK,
        *("frac", "binom", "dbinom", "tbinom", "pi", "infty", "pm", "mp", "cup", "in", "le", "ge", "ne", "lt", "gt"),
        *("lfloor", "rfloor", "lceil", "rceil", "lvert", "rvert", "emptyset", "varnothing", "mathbb"),
    }
)
_WORDS = ("infinity", "infty", "inf", "oo", "pi")
_WORD = re.compile("|".join([*FUNCTIONS, *_WORDS, "[A-Za-z]"]))
_TOKEN = re.compile(
    r" *(?:(?P<environment>\\(?:begin|end)\{[pbvB]?matrix\})"
    r"|(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,4}(?![0-9A-Za-z.]))?)"
    r"|(?P<command>\\(?:[A-Za-z]+|[{}\\]))"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<sign><=|>=|!=|[-+*/^_()\[\]{},;|!=<>%&]))"
)
_LONGEST_PRODUCT_OF_LETTERS = 3


class Kind(Enum):
    """Kinds of tokens."""

    NUMBER = "number"
    COMMAND = "command"
    WORD = "word"
    SIGN = "sign"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text; a command comes without its backslash."""

    kind: Kind
    text: str


def tokens_of(text: str) -> list[Token]:
    """All tokens and an END. NotParsed for what is not listed, TooComplex for more than 4096 characters."""
    if len(text) > MOST_CHARS:
        raise TooComplex(f"more than {MOST_CHARS} characters")
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NotParsed(f"character {place + 1} is not part of a formula")
        tokens.extend(_tokens_of(match))
        place = match.end()
    tokens.append(Token(Kind.END, ""))
    return tokens


def _tokens_of(match: re.Match[str]) -> list[Token]:
    found = match[match.lastgroup or 0]
    match match.lastgroup:
        case "number":
            if len(found) > MOST_DIGITS:
                raise TooComplex(f"a number of more than {MOST_DIGITS} digits")
            return [Token(Kind.NUMBER, found)]
        case "environment":
            return [Token(Kind.COMMAND, found[1:])]
        case "command":
            return [_command(found[1:])]
        case "letters":
            return _words(found)
        case _:
            return [Token(Kind.SIGN, found)]


def _command(name: str) -> Token:
    if name[0].isalpha() and name not in _COMMANDS:
        raise NotParsed("an unknown command")
    return Token(Kind.COMMAND, name)


def _words(letters: str) -> list[Token]:
    """Functions and constants by name; other letters are factors, unless there are so many that it is prose."""
    words = _WORD.findall(letters)
    if sum(len(word) == 1 for word in words) > _LONGEST_PRODUCT_OF_LETTERS:
        raise NotParsed("prose")
    return [Token(Kind.WORD, word) for word in words]
