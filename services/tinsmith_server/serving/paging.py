"""Pages of lists (AIP-158): a page token is the sort key of the last item of the page before, opaque to clients."""

import base64
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from tinsmith_server.serving.errors import InvalidArgument

T = TypeVar("T")
Key = tuple[str, ...]


def page(
    items: Sequence[T], key: Callable[[T], Key], size: int, token: str, *, default_size: int = 50, largest: int = 500
) -> tuple[Sequence[T], str]:
    """The items after `token`, and the token of the next page, empty on the last. `items` are sorted by `key`.

    InvalidArgument with reason BAD_PAGE_TOKEN.
    """
    after = key_of(token)
    left = [item for item in items if key(item) > after]
    found = left[: min(size or default_size, largest)]
    return found, token_of(key(found[-1])) if len(found) < len(left) else ""


def token_of(key: Key) -> str:
    """The token of the page behind the item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def key_of(token: str) -> Key:
    """The key in a token; empty for the first page. InvalidArgument with reason BAD_PAGE_TOKEN."""
    if not token:
        return ()
    try:
        parts = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        json.dumps(parts, ensure_ascii=False).encode()  # half of a character, escaped, is a text that no store takes
    except (ValueError, RecursionError):
        raise bad_page_token() from None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise bad_page_token()
    return tuple(parts)


def bad_page_token() -> InvalidArgument:
    """The error of a token that this server did not make."""
    return InvalidArgument(
        "page_token: is not one of this server; take next_page_token of the last answer",
        reason="BAD_PAGE_TOKEN",
        violations=[("page_token", "is not one of this server")],
    )
