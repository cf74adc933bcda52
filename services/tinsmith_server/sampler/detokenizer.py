"""Text of an answer while it grows: only whole characters, and the pieces add up to the text of the whole."""

from tinsmith_server.sampler.text import Text

_HALF = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer.

    Decodes a short window that begins at a former boundary, because a token's text may depend on the token before it.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._ids: list[int] = []
        self._window = 0
        self._told = 0

    def push(self, ids: list[int], *, last: bool) -> str:
        """Takes new tokens; returns the text that has become certain, and with `last` all that is left."""
        self._ids.extend(ids)
        before = self._decode(self._window, self._told)
        after = self._decode(self._window, len(self._ids))
        if not last and after.endswith(_HALF):
            return ""
        self._window, self._told = self._told, len(self._ids)
        return after[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return self._text.decode(self._ids[start:stop], skip_special_tokens=True)
