"""The Go client: its own tests, and its example against a real suite."""

import re
from pathlib import Path

import pytest

from tests.client.toolchains import ROOT, SMALL_RUN, check_stubs, need, run
from tests.suite import RunningSuite

FOLDER = ROOT / "clients/go"


@pytest.fixture(autouse=True)
def _toolchain() -> None:
    need("go", "the Go client")


def test_its_code_is_formatted_and_its_own_tests_pass() -> None:
    assert run(["gofmt", "-l", "tinsmith", "examples"], FOLDER) == ""
    run(["go", "vet", "./tinsmith/...", "./examples/..."], FOLDER)
    run(["go", "test", "./tinsmith/...", "./examples/..."], FOLDER)


def test_its_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    plugins = ["build/go/bin/protoc-gen-go", "build/go/bin/protoc-gen-go-grpc"]
    check_stubs("go", "clients/go/gen", plugins, tmp_path)


def test_its_example_trains_a_model_and_asks_it(suite: RunningSuite) -> None:
    printed = run(["go", "run", "./examples/mathrl", *SMALL_RUN], FOLDER, suite.environment).splitlines()
    assert [line.partition(":")[0] for line in printed[:-1]] == ["step 1/2", "step 2/2"]
    assert re.fullmatch(r"What is 3 \+ 4\? .+", printed[-1])
