"""How a client says who it is."""

import os


def api_key_of_environment() -> str | None:
    """TINSMITH_API_KEY; None when it is not set."""
    return os.environ.get("TINSMITH_API_KEY") or None


def bearer(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that carries a key; nothing without one."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()
