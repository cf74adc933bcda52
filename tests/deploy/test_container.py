"""The container file: what it copies is there, what it starts exists, and it does not run as root."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy/container/Containerfile").read_text()
LINES = [line.strip() for line in re.sub(r"\\\n", " ", TEXT).splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("COPY") and "--from" not in line])
def test_copied_paths_exist(line: str) -> None:
    *sources, _ = line.split()[1:]
    for source in sources:
        assert (ROOT / source).exists(), source


def test_everything_that_the_packages_need_is_copied() -> None:
    """The build backend reads the readme and packages `services`; the constraints pin what is installed."""
    copied = " ".join(line for line in LINES if line.startswith("COPY"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [project["project"]["readme"], "services", "clients/python", "deploy/constraints.txt", "pyproject.toml"]
    assert [path for path in needed if path not in copied] == []


def test_installed_extra_and_started_command_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [extra] = [line.removeprefix("ARG EXTRA=") for line in LINES if line.startswith("ARG EXTRA=")]
    assert extra in project["optional-dependencies"]
    [entry] = [line for line in LINES if line.startswith("ENTRYPOINT")]
    assert entry == 'ENTRYPOINT ["tinsmith", "serve"]'
    assert "tinsmith" in project["scripts"]


def test_last_stage_runs_as_a_numbered_user_that_is_not_root() -> None:
    users = [line.split()[1] for line in LINES if line.startswith("USER")]
    assert users
    assert int(users[-1]) > 0
    assert LINES.index(f"USER {users[-1]}") < LINES.index('ENTRYPOINT ["tinsmith", "serve"]')


def test_it_has_a_build_stage_that_does_not_end_up_in_the_image() -> None:
    assert sum(line.startswith("FROM") for line in LINES) == 2
    assert "--no-cache-dir" in TEXT
