"""Commands that speak to a suite."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from tinsmith import Suite, TinsmithError
from tinsmith_server.cli.failures import CommandFailed


@contextmanager
def connected(home: Path | None) -> Iterator[Suite]:
    """The suite in `home`, or the one that `Suite.connect` finds. CommandFailed when none answers."""
    try:
        client = Suite.connect(home=home)
    except ValueError as error:  # its suite.json is damaged
        raise CommandFailed(str(error)) from None
    with client as suite:
        try:
            yield suite
        except TinsmithError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE or error.reason:
                raise
            raise CommandFailed(
                f"no suite answers at {suite.addresses.orchestrator}: start one with `tinsmith up`, or say where it "
                "runs with --home or TINSMITH_HOME"
            ) from None
