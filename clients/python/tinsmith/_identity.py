"""What makes a call one that may be repeated: an identity by which the server knows it again."""

import uuid
from typing import Any

from google.protobuf.message import Message


def prepared(request: Any) -> Any:
    """The request, or the stream of requests, of a call, ready to be sent.

    A message that has room for a `request_id`, and that nothing identifies yet, gets one of its own. It is a copy: a
    caller who sends the same message again means another call.
    """
    if not isinstance(request, Message):
        return request
    fields = request.DESCRIPTOR.fields_by_name
    names = [name for name in ("request_id", "seq_id") if name in fields]
    if "request_id" not in names or any(getattr(request, name) for name in names):
        return request
    copy: Any = type(request)()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy
