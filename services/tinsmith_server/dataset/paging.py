"""Pages of the catalogue: the token is the last name of the page before."""

import base64
import binascii
from collections.abc import Sequence

from tinsmith_server.dataset.sources.catalogue import CatalogueEntry
from tinsmith_server.serving.errors import InvalidArgument

_DEFAULT_SIZE, _LARGEST_SIZE = 50, 500


def page(entries: Sequence[CatalogueEntry], size: int, token: str) -> tuple[Sequence[CatalogueEntry], str]:
    """Entries after `token`, sorted by name, and the token of the next page, empty on the last."""
    after = _name(token)
    left = sorted((entry for entry in entries if entry.name > after), key=lambda entry: entry.name)
    found = left[: min(size or _DEFAULT_SIZE, _LARGEST_SIZE)]
    is_last = len(found) == len(left)
    return found, "" if is_last else base64.urlsafe_b64encode(found[-1].name.encode()).decode()


def _name(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise InvalidArgument(
            "page_token: is not one of this server; take next_page_token of the last answer",
            reason="BAD_PAGE_TOKEN",
            violations=[("page_token", "is not one of this server")],
        ) from error
