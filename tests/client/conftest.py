"""A real suite for the clients of other languages, started once."""

from collections.abc import Iterator

import pytest

from tests.suite import RunningSuite, running_suite


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with running_suite(tmp_path_factory.mktemp("suite")) as suite:
        yield suite
