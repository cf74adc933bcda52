"""The TypeScript client: its own tests, and its example against a real suite."""

import re
from pathlib import Path

import pytest

from tests.client.toolchains import ROOT, SMALL_RUN, check_stubs, need, run
from tests.suite import RunningSuite

FOLDER = ROOT / "clients/typescript"
PLUGIN = "clients/typescript/node_modules/.bin/protoc-gen-es"


@pytest.fixture(autouse=True)
def _toolchain() -> None:
    need("node", "the TypeScript client")
    need("npm", "the TypeScript client")
    run(["make", PLUGIN], ROOT)


def test_it_compiles_in_strict_mode_and_its_own_tests_pass() -> None:
    assert re.search(r"^# fail 0$", run(["npm", "test"], FOLDER), re.MULTILINE)


def test_its_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    check_stubs("typescript", "clients/typescript/src/gen", [PLUGIN], tmp_path)


def test_its_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (FOLDER / "package-lock.json").read_text()


def test_its_example_trains_a_model_and_asks_it(suite: RunningSuite) -> None:
    printed = run(["npm", "run", "--silent", "example", "--", *SMALL_RUN], FOLDER, suite.environment).splitlines()
    assert [line.partition(":")[0] for line in printed[:-1]] == ["step 1/2", "step 2/2"]
    assert re.fullmatch(r"What is 3 \+ 4\? .+", printed[-1])
