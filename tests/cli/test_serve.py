"""`tinsmith serve`: what the user got wrong is one line that says what to do."""

import socket
from pathlib import Path

import pytest

from tests.cli.programs import one_line_of, tinsmith_program
from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.serve import settings_of


def test_an_unknown_service_is_told_which_there_are() -> None:
    done = tinsmith_program("serve", "trainor")
    assert done.returncode == 1
    assert one_line_of(done) == (
        "no service 'trainor'; there are dataset, trainer, sampler, grader, environment, orchestrator, gateway"
    )


def test_an_unknown_setting_is_told_the_nearest_one() -> None:
    done = tinsmith_program("serve", "gateway", "--drain-seconds", "3")
    assert done.returncode == 1
    assert one_line_of(done) == "flag --drain-seconds: gateway has no setting 'drain_seconds'; did you mean 'drain_s'?"


def test_a_value_that_does_not_fit_is_told_where_it_came_from() -> None:
    done = tinsmith_program("serve", "gateway", environment={"TINSMITH_GATEWAY_DRAIN_S": "soon"})
    assert done.returncode == 1
    assert one_line_of(done).startswith("environment TINSMITH_GATEWAY_DRAIN_S: drain_s = 'soon' does not do")


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_settings_file_that_is_no_good_is_named(tmp_path: Path, what: str) -> None:
    file = tmp_path / "settings.toml"
    if what == "damaged":
        file.write_text("drain_s =")
    done = tinsmith_program("serve", "gateway", "--config", str(file))
    assert done.returncode == 1
    assert str(file) in one_line_of(done)


def test_a_taken_port_is_exit_code_2_and_says_how_to_choose_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = tinsmith_program("serve", "gateway", "--address", address, "--home", str(tmp_path))
    assert done.returncode == 2
    assert address in one_line_of(done)
    assert "TINSMITH_GATEWAY_ADDRESS" in one_line_of(done)


def test_settings_are_read_in_both_forms_and_the_last_one_counts() -> None:
    assert settings_of(["--drain-s", "5", "--home=/a=b", "--drain-s=6"]) == {"drain_s": "6", "home": "/a=b"}


@pytest.mark.parametrize("flags", [["5"], ["--drain-s"], ["--"]])
def test_flags_that_are_no_pairs_are_refused(flags: list[str]) -> None:
    with pytest.raises(CommandFailed):
        settings_of(flags)
