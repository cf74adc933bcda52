"""How a client connects: message limits, keepalive, retries."""

import json
from functools import cache

from google.protobuf.descriptor_pool import Default

from tinsmith._services import SERVICES

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message in each direction; the servers' default too."""

DEFAULT_TIMEOUT_S = 600.0
"""Deadline of a unary call that names none: training calls may queue."""

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 4,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@cache
def _service_config() -> str:
    """Retries every unary call: reads have no effect, writes carry an id by which a repeat is known (`_identity.py`) or
    change nothing when they are repeated.

    Streams are left alone. Their readers know where to go on, and gRPC's own retry can leave a stream hanging when the
    server is killed at the moment of the call (seen with grpcio 1.85).
    """
    services = [Default().FindServiceByName(service.full_name) for service in SERVICES.values()]
    streams = [
        {"service": service.full_name, "method": method.name}
        for service in services
        for method in service.methods
        if method.client_streaming or method.server_streaming
    ]
    methods = [{"name": [{}], "retryPolicy": _RETRY_POLICY}, {"name": streams}]
    return json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": methods})


def channel_options() -> list[tuple[str, int | str]]:
    """Options of every channel that this package opens."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.service_config", _service_config()),
        # A service that comes back after a crash is found at once, not after minutes of growing pauses.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
