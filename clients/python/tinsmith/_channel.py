"""How a client connects: message limits, keepalive, retries."""

import json

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message in each direction; the servers' default too."""

DEFAULT_TIMEOUT_S = 600.0
"""Deadline of a unary call that names none: training calls may queue."""

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            # Safe for every call: reads have no effect, writes carry an id by which a repeat is known (`_identity.py`).
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 4,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def channel_options() -> list[tuple[str, int | str]]:
    """Options of every channel that this package opens."""
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 15_000),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        # A service that comes back after a crash is found at once, not after minutes of growing pauses.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
