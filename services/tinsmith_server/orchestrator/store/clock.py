"""Times as the tables hold them and as messages carry them."""

import time

from google.protobuf.timestamp_pb2 import Timestamp


def now_ns() -> int:
    """Nanoseconds since 1970, UTC."""
    return time.time_ns()


def timestamp(time_ns: int) -> Timestamp:
    """The same as a message."""
    message = Timestamp()
    message.FromNanoseconds(time_ns)
    return message
