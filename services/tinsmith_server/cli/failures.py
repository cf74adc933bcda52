"""How a command fails: in one line, with an exit code, without a traceback."""

import sys

INTERRUPTED = 130
"""Exit code of a command that the user has stopped."""


class CommandFailed(Exception):
    """The command can't do what it was asked; the message is one line that says what to do."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def lines_of(error: Exception) -> list[str] | None:
    """What a user is told of an error: one line, then one for each field that is wrong. None for an error of ours."""
    from tinsmith import TinsmithError
    from tinsmith_server.serving.errors import ServiceError

    if isinstance(error, CommandFailed | FileNotFoundError):
        return [str(error)]
    if isinstance(error, ServiceError):
        return [f"{error.message} [{error.reason}]"]
    if isinstance(error, TinsmithError):
        told = [violation for violation in error.violations if violation.description not in error.message]
        return [str(error), *(f"  {violation.field}: {violation.description}" for violation in told)]
    return None


def report(error: Exception) -> int:
    """Tells the user on stderr and returns the exit code; raises what is no user's business."""
    lines = lines_of(error)
    if lines is None:
        raise error
    print("\n".join(lines), file=sys.stderr)
    return error.exit_code if isinstance(error, CommandFailed) else 1
