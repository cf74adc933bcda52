"""Values of Arrow and of `datasets` as plain JSON values."""

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

_SCALARS = (str, int, bool, type(None))


def plain(value: Any) -> Any:
    """JSON has no dates, bytes and NaN: they become ISO 8601 text, base64 text and null. The rest that it does not have
    becomes text."""
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def canonical_json(value: Any) -> bytes:
    """One spelling for equal values: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
