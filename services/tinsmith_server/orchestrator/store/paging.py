"""Pages of lists that are ordered newest first: the token is the place of the last item of the page before."""

from typing import Any

from sqlalchemy import Column, Row, Select, tuple_

from tinsmith_server.serving.paging import bad_page_token, key_of, token_of

DEFAULT_SIZE, LARGEST_SIZE = 50, 500
_LATEST_NS = (1 << 63) - 1
"""The largest number that a database holds."""


def page(statement: Select[Any], time: Column[int], name: Column[str], size: int, token: str) -> Select[Any]:
    """The statement for one page and one item more, which tells whether there is another page."""
    if token:
        statement = statement.where(tuple_(time, name) < tuple_(*_place(token)))
    return statement.order_by(time.desc(), name.desc()).limit(page_length(size) + 1)


def page_length(size: int) -> int:
    """Items of a page for which `size` was asked; 0 means the default."""
    return min(size or DEFAULT_SIZE, LARGEST_SIZE)


def token_after(row: Row[Any], name: str) -> str:
    """The token that goes on after this row, whose name is in the named column."""
    return token_of((str(row.create_time_ns), getattr(row, name)))


def _place(token: str) -> tuple[int, str]:
    try:
        time_ns, name = key_of(token)
        place = int(time_ns), name
    except ValueError:
        raise bad_page_token() from None
    if abs(place[0]) > _LATEST_NS:
        raise bad_page_token()
    return place
