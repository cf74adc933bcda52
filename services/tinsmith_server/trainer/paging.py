"""Pages of a sorted list: the token is the sort key of the last item of the page before."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from tinsmith_server.serving.errors import InvalidArgument

T = TypeVar("T")
Key = tuple[str, ...]
_DEFAULT_SIZE, _LARGEST_SIZE = 50, 500


def page(items: Sequence[T], key: Callable[[T], Key], size: int, token: str) -> tuple[Sequence[T], str]:
    """Items after `token`, and the token of the next page, empty on the last. `items` are sorted by `key`.

    Raises InvalidArgument with reason BAD_PAGE_TOKEN.
    """
    after = _key(token) if token else ()
    left = [item for item in items if key(item) > after]
    found = left[: min(size or _DEFAULT_SIZE, _LARGEST_SIZE)]
    more = len(found) < len(left)
    return found, base64.urlsafe_b64encode(json.dumps(key(found[-1])).encode()).decode() if more else ""


def _key(token: str) -> Key:
    try:
        parts: list[object] = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        return tuple(map(_text, parts))
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidArgument(
            "page_token: is not one of this server; take next_page_token of the last answer",
            reason="BAD_PAGE_TOKEN",
            violations=[("page_token", "is not one of this server")],
        ) from error


def _text(part: object) -> str:
    if not isinstance(part, str):
        raise TypeError("a key is made of texts")
    return part
