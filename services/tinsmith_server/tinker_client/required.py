"""Whether the SDK is there. Imports nothing of it."""

from importlib.util import find_spec

from tinsmith_server.serving import CannotServe


def require_sdk(room: str) -> None:
    """CannotServe when the SDK is not installed."""
    if find_spec("tinker") is None:
        raise CannotServe(
            f"{room}: backend tinker needs the package tinker, which is not installed: "
            "pip install 'tinsmith-server[tinker]'",
            exit_code=2,
        )
