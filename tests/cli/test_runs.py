"""`tinsmith run`, `runs` and `recipes` against an orchestrator on a real socket; never on a terminal here."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Fake
from tests.cli.programs import one_line_of, tinsmith
from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.overrides import overrides_of


def test_a_run_is_watched_to_its_end_in_plain_lines(orchestrator: Fake) -> None:
    """U-01: without a terminal there are lines, and no control characters."""
    done = tinsmith("run", "math_rl", "steps=2", "seed=-1", "--name", "mine", "--home", orchestrator.home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "run r1 of math_rl, 2 steps",
        "step 1/2  reward 0.250  correct 0.500  seconds 0.070",
        "step 2/2  reward 0.250  correct 0.750  seconds 0.070",
        "step 2/2  evaluation: correct on test problems, greedy 0.900",
        "run r1:",
        "metric                last value",
        "env/all/correct       0.5",
        "env/all/reward/total  0.25",
        "time/total            0.07",
        "run r1 completed; weights tinsmith://r1/sampler/final",
    ]
    [request] = orchestrator.servicer.started
    assert dict(request.overrides) == {"steps": "2", "seed": "-1"}
    assert request.display_name == "mine"


def test_a_failed_run_is_exit_code_1_and_its_reason(orchestrator: Fake) -> None:
    orchestrator.servicer.ending = "failed"
    done = tinsmith("run", "math_rl", "--home", orchestrator.home)
    assert done.returncode == 1
    assert one_line_of(done) == (
        "run r1 failed at step 2 of 2: the grader stayed away for a minute [GRADER_GONE]; "
        "go on from its last checkpoint with `tinsmith runs resume r1`"
    )


def test_a_detached_run_returns_at_once_and_says_how_to_see_it(orchestrator: Fake) -> None:
    orchestrator.servicer.ending = "never"
    done = tinsmith("run", "math_rl", "--detach", "--home", orchestrator.home)
    assert done.returncode == 0
    assert "tinsmith runs watch r1" in done.stdout


def test_interrupting_leaves_the_run_going_and_says_how_to_go_on(orchestrator: Fake) -> None:
    orchestrator.servicer.ending = "never"
    command = [sys.executable, "-m", "tinsmith_server.cli", "run", "math_rl", "--home", orchestrator.home]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    while "evaluation" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "the run goes on: `tinsmith runs watch r1` shows it, `tinsmith runs cancel r1` ends it"


def test_a_dry_run_shows_the_configuration(orchestrator: Fake) -> None:
    done = tinsmith("run", "math_rl", "--dry-run", "--home", orchestrator.home)
    assert orchestrator.servicer.started[0].dry_run
    assert "base_model  tinsmith-tiny" in done.stdout
    assert done.stdout.endswith("nothing was started; 2 steps\n")


def test_wrong_fields_are_told_one_a_line(orchestrator: Fake) -> None:
    """C-05: a violation for each wrong field, with what was meant."""
    done = tinsmith("run", "math_rl", "lr=1", "--home", orchestrator.home)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "the configuration of math_rl does not do [BAD_CONFIG]",
        "  lr: no such field; did you mean learning_rate?",
        "  steps: must be above 0",
    ]


def test_an_unknown_recipe_is_one_line(orchestrator: Fake) -> None:
    done = tinsmith("run", "poetry", "--home", orchestrator.home)
    assert done.returncode == 1
    assert one_line_of(done) == "no recipe 'poetry': there are math_rl [RECIPE_NOT_FOUND]"


def test_fields_with_dashes_are_refused_with_a_hint(orchestrator: Fake) -> None:
    """C-04: `--key=value` is refused."""
    done = tinsmith("run", "math_rl", "--learning_rate=1e-3", "--home", orchestrator.home)
    assert done.returncode == 1
    assert one_line_of(done) == (
        "fields of a recipe are written without dashes: learning_rate=1e-3, not --learning_rate=1e-3"
    )
    assert orchestrator.servicer.started == []


def test_the_last_of_several_values_counts_and_text_stays_text() -> None:
    """C-04, C-08: values are not interpreted on this side."""
    words = ["lr=1e-5", "lr=1e-4", "x=foo", "tags=a,b", "opt.lr=-1", "expression=a=b", "empty="]
    assert overrides_of(words) == {
        "lr": "1e-4",
        "x": "foo",
        "tags": "a,b",
        "opt.lr": "-1",
        "expression": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize("word", ["steps", "=3", "--steps", "-s=1"])
def test_words_that_set_nothing_are_refused(word: str) -> None:
    with pytest.raises(CommandFailed, match="="):
        overrides_of([word])


def test_no_suite_is_one_line_that_says_how_to_start_one(tmp_path: Path) -> None:
    named = tinsmith("runs", "list", "--home", str(tmp_path))
    assert (named.returncode, "tinsmith up --home" in one_line_of(named)) == (1, True)
    environment = {"TINSMITH_ORCHESTRATOR_ADDRESS": "127.0.0.1:1", "TINSMITH_HOME": str(tmp_path)}
    unnamed = tinsmith("runs", "list", environment=environment)
    assert unnamed.returncode == 1
    assert one_line_of(unnamed).startswith("no suite answers at 127.0.0.1:1: start one with `tinsmith up`")


def test_runs_are_listed_over_several_pages(orchestrator: Fake) -> None:
    done = tinsmith("runs", "list", "--limit", "130", "--json", "--home", orchestrator.home)
    assert [run["run_id"] for run in json.loads(done.stdout)] == [f"r{number}" for number in range(130)]
    assert len(tinsmith("runs", "list", "--home", orchestrator.home).stdout.splitlines()) == 21


def test_a_run_is_shown_for_people_and_for_programs(orchestrator: Fake) -> None:
    done = tinsmith("runs", "show", "r1", "--json", "--home", orchestrator.home)
    run = json.loads(done.stdout)
    assert (run["state"], run["metrics"]["env/all/correct"]) == ("RUN_STATE_COMPLETED", 0.5)
    shown = tinsmith("runs", "show", "r1", "--home", orchestrator.home).stdout
    assert ["state", "completed"] in [line.split() for line in shown.splitlines()]
    missing = tinsmith("runs", "show", "r2", "--home", orchestrator.home)
    assert (missing.returncode, one_line_of(missing)) == (1, "no run 'r2' [RUN_NOT_FOUND]")


def test_a_resumed_run_shows_only_what_is_new(orchestrator: Fake) -> None:
    done = tinsmith("runs", "resume", "r1", "--home", orchestrator.home)
    assert done.returncode == 0
    assert orchestrator.servicer.watched == [3]
    assert "run r1 goes on at step 2 of 2" in done.stdout


def test_a_cancelled_run_says_where_it_stopped(orchestrator: Fake) -> None:
    done = tinsmith("runs", "cancel", "r1", "--home", orchestrator.home)
    assert done.stdout == "run r1: cancelled at step 1 of 2\n"


def test_every_field_of_a_recipe_is_shown(orchestrator: Fake) -> None:
    """C-07: type, default and meaning of each."""
    done = tinsmith("recipes", "show", "math_rl", "--home", orchestrator.home)
    assert done.stdout.splitlines() == [
        "math_rl: Learns to add.",
        "field           type    default  meaning",
        "steps           int32   40       Batches. (> 0)",
        "dataset.hub.id  string           A hub id.",
        "run it: tinsmith run math_rl steps=40",
    ]


def test_recipes_are_listed_with_whether_they_can_be_run(orchestrator: Fake) -> None:
    done = tinsmith("recipes", "list", "--home", orchestrator.home)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["recipe", "available"],
        ["math_rl", "yes"],
        ["dpo", "not"],
    ]
    recipes = json.loads(tinsmith("recipes", "list", "--json", "--home", orchestrator.home).stdout)
    assert [recipe["available"] for recipe in recipes] == [True, False]
