"""Pages of the model list: the token is the last name of the page before."""

import base64
from collections.abc import Sequence

from tinsmith_server.sampler.backend import ModelSummary
from tinsmith_server.serving.errors import InvalidArgument

_DEFAULT_SIZE, _LARGEST_SIZE = 50, 500


def page(models: Sequence[ModelSummary], size: int, token: str) -> tuple[Sequence[ModelSummary], str]:
    """Models after `token`, sorted by name, and the token of the next page, empty on the last."""
    after = _name(token)
    left = [model for model in models if model.name > after]
    found = left[: min(size or _DEFAULT_SIZE, _LARGEST_SIZE)]
    more = len(found) < len(left)
    return found, base64.urlsafe_b64encode(found[-1].name.encode()).decode() if more else ""


def _name(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise InvalidArgument(
            "page_token: is not one of this server; take next_page_token of the last answer",
            reason="BAD_PAGE_TOKEN",
            violations=[("page_token", "is not one of this server")],
        ) from error
