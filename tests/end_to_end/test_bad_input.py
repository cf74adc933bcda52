"""Bad input: one clear line that says what, where and how to mend it, and nothing is lost."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.driving import SMALL, connect, start, watch_to_end
from tests.suite import RunningSuite, running_suite
from tinsmith import TinsmithError, watch_run
from tinsmith.environment.v1 import CreateEpisodesRequest, EnvironmentSpec, TextArenaEnvironment
from tinsmith.orchestrator.v1 import GetRunRequest, ResumeRunRequest, RunState


def tinsmith(suite: RunningSuite, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command line as a user has it."""
    command = [sys.executable, "-m", "tinsmith_server.cli", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=suite.environment,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "maths_rl"], ["no recipe 'maths_rl'", "math_rl", "RECIPE_NOT_FOUND"]),
        (["run", "math_rl", "step=3"], ["'step'", "did you mean 'steps'", "BAD_CONFIG"]),
        (["run", "math_rl", "steps=many"], ["steps", "'many'", "whole number", "BAD_CONFIG"]),
        (["run", "math_rl", "steps=0"], ["steps", "greater than 0", "BAD_CONFIG"]),
        (["run", "math_rl", "loss=dpo"], ["loss", "importance_sampling", "BAD_CONFIG"]),
        (["run", "math_rl", "base_model=gpt-5"], ["'gpt-5'", "tinsmith-tiny", "base_models", "BASE_MODEL_NOT_FOUND"]),
        (["run", "math_rl", "problems=arithmetics"], ["'arithmetics'", "arithmetic", "DATASET_NOT_FOUND"]),
        (["run", "math_rl", "renderer=llama9"], ["'llama9'", "chat_template", "RENDERER_NOT_FOUND"]),
        (["run", "math_rl", "problem_options=max_operandd=9"], ["'max_operandd'", "max_operand"]),
        (["run", "math_rl", "--steps=3"], ["steps=3", "without dashes"]),
        (["run", "supervised"], ["supervised", "not implemented", "RECIPE_NOT_IMPLEMENTED"]),
        (["runs", "show", "run-nothing"], ["run-nothing", "RUN_NOT_FOUND"]),
    ],
)
def test_wrong_word_on_the_command_line(suite: RunningSuite, arguments: list[str], words: list[str]) -> None:
    done = tinsmith(suite, *arguments)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_unknown_environment(suite: RunningSuite) -> None:
    environment = EnvironmentSpec(text_arena=TextArenaEnvironment(id="TicTacTo-v0"))
    with connect(suite) as client, pytest.raises(TinsmithError, match="TicTacTo-v0") as caught:
        client.environment.CreateEpisodes(CreateEpisodesRequest(environment=environment))
    assert caught.value.reason == "ENVIRONMENT_NOT_FOUND"


def test_taken_port(suite: RunningSuite, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = tinsmith(suite, "serve", "grader", "--address", address, "--home", str(tmp_path))
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert address in line
    assert "--address" in line


def test_malformed_row_names_file_and_line(tmp_path: Path) -> None:
    """B-02: the run is refused before it costs anything."""
    data = tmp_path / "data"
    data.mkdir()
    good = {"question": "What is 1 + 1?", "answer": "2"}
    (data / "sums.jsonl").write_text(f'{json.dumps(good)}\n{json.dumps(good)}\n{{"question": \n')
    overrides = {"dataset.files.uris": "sums.jsonl"}
    environment = {"TINSMITH_DATASET_DATA_ROOT": str(data)}
    with running_suite(tmp_path / "home", environment=environment) as suite, connect(suite) as client:
        with pytest.raises(TinsmithError, match=r"sums\.jsonl") as caught:
            start(client, **SMALL, **overrides)
        assert caught.value.reason == "BAD_ROW"
        assert caught.value.metadata["line"] == "3"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_for_checkpoints_fails_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    """The run says what is full; with room it goes on from its last checkpoint and ends as if nothing had happened."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small file system here: {mounted.stderr.strip()}")
    try:
        environment = {"TINSMITH_CHECKPOINT_ROOT": str(disk)}
        with running_suite(tmp_path / "home", environment=environment) as suite, connect(suite) as client:
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * 300_000)
            run_id = start(client, **SMALL, steps=6)
            for _ in watch_run(client, run_id):
                pass
            failed = client.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run
            assert failed.state == RunState.RUN_STATE_FAILED
            assert failed.error.reason == "STORAGE_FULL"
            assert str(disk) not in failed.error.message
            ballast.unlink()
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            client.orchestrator.ResumeRun(ResumeRunRequest(run_id=run_id))
            ended = watch_to_end(client, run_id)
            undisturbed = watch_to_end(client, start(client, **SMALL, steps=6))
            assert ended.adapter_sha256 == undisturbed.adapter_sha256
    finally:
        subprocess.run(["umount", disk], check=True)
