"""Running the tools of other languages from tests."""

import filecmp
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATORS = ROOT / ".venv-proto/bin"
SMALL_RUN = ("steps=2", "groups_per_batch=4", "group_size=4", "eval_every=0", "seed=3")
"""Fields of math_rl for a run of a second or two."""


def need(tool: str, use: str) -> None:
    """Skips the test, naming the tool, on a machine that has not got it."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: {use} is not tested here")


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What the command prints; the test fails with all of it when the command does."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_stubs(language: str, generated: str, plugins: Sequence[str], fresh: Path) -> None:
    """Regenerating changes nothing below the folder `generated`."""
    if not GENERATORS.exists():
        pytest.skip("the generators are not installed: make .venv/.proto")
    run(["make", *plugins], ROOT)
    path = os.pathsep.join([str(GENERATORS), str(ROOT / "build/go/bin"), os.environ["PATH"]])
    command = [str(GENERATORS / "python"), "proto/generate.py", "--languages", language, "--out", str(fresh)]
    run(command, ROOT, {**os.environ, "PATH": path})
    names = {str(file.relative_to(fresh)) for file in (fresh / generated).rglob("*") if file.is_file()}
    committed = {str(file.relative_to(ROOT)) for file in (ROOT / generated).rglob("*") if file.is_file()}
    assert len(names) > 15
    assert committed == names, "run `make proto` and commit what it writes"
    _, different, missing = filecmp.cmpfiles(fresh, ROOT, sorted(names), shallow=False)
    assert (different, missing) == ([], []), "run `make proto` and commit what it writes"
