"""`tinsmith demo`: a real suite, a run, a report; and nothing left behind, whatever happens."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.programs import ROOT, one_line_of, tinsmith_program
from tests.suite import wait_until
from tinsmith_server.cli.state import read_state

SMALL = ("steps=2", "groups_per_batch=4", "group_size=4", "eval_every=0")


def left_in(home: Path) -> list[str]:
    """Command lines of processes that have to do with the home."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        is_of_suite = environment.get("TINSMITH_HOME") == str(home) or str(home) in command
        if is_of_suite and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(" ".join(command))
    return found


@pytest.mark.slow
def test_the_demo_trains_writes_a_report_and_stops_its_suite(tmp_path: Path) -> None:
    done = tinsmith_program("demo", "--home", str(tmp_path), *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "seven services" in lines[0]
    assert re.fullmatch(r"demo: reward -?\d\.\d\d -> -?\d\.\d\d in 2 steps, \d+ s", lines[-1])
    assert [line.split("  ")[0] for line in lines if line.startswith("step ")] == ["step 1/2", "step 2/2", "step 2/2"]
    assert "\x1b" not in done.stdout
    assert (tmp_path / "report/learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "report/report.html").read_text()
    assert left_in(tmp_path) == []


@pytest.mark.slow
def test_a_wrong_field_is_one_line_and_stops_the_suite(tmp_path: Path) -> None:
    done = tinsmith_program("demo", "--home", str(tmp_path), "stepz=2")
    assert done.returncode == 1
    assert "did you mean 'steps'?" in one_line_of(done)
    assert left_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_in_the_middle_stops_its_suite(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tinsmith_server.cli", "demo", "--home", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: read_state(tmp_path) is not None, 240, lambda: "no suite was started")
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert (process.returncode, errors) == (130, "the demo was stopped, and its suite with it\n")
    wait_until(lambda: left_in(tmp_path) == [], 60, lambda: f"left: {left_in(tmp_path)}")


def test_what_is_wrong_with_the_suite_is_what_the_demo_says(tmp_path: Path) -> None:
    done = tinsmith_program("demo", "--home", str(tmp_path), environment={"TINSMITH_MODEL_HOME": "/proc/nowhere"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert left_in(tmp_path) == []
