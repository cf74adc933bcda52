"""`tinsmith doctor` and `tinsmith model`: what there is, and what would stop a suite from starting."""

import json
import os
import socket
from pathlib import Path

import pytest

from tests.cli.programs import Done, one_line_of, tinsmith
from tinsmith_server.cli.home_lock import taken
from tinsmith_server.cli.ports import DEFAULT_ADDRESSES, free_ports
from tinsmith_server.cli.state import ServiceState, SuiteState, write_state
from tinsmith_server.models import EMBEDDED_MODELS
from tinsmith_server.serving import ROOMS, find_room


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of the test's own, and addresses that are free."""
    ports = zip(ROOMS, free_ports(), strict=False)
    addresses = {f"TINSMITH_{room.upper()}_ADDRESS": f"127.0.0.1:{port}" for room, port in ports}
    http_address = f"127.0.0.1:{next(free_ports())}"
    return {**addresses, "TINSMITH_GATEWAY_HTTP_ADDRESS": http_address, "TINSMITH_HOME": str(tmp_path)}


def settings(done: Done) -> dict[tuple[str, str], dict[str, str]]:
    return {(item["room"], item["name"]): item for item in json.loads(done.stdout)["settings"]}


def test_every_setting_of_every_room_is_shown_with_where_it_came_from(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("log_level = 'debug'\n[gateway]\ndrain_s = 3\n")
    done = tinsmith("doctor", "--json", "--config", str(file), environment=environment)
    assert done.returncode == 0, done.stderr
    found = settings(done)
    assert set(found) == {(room, name) for room in ROOMS for name in find_room(room).settings.model_fields}
    assert (found["trainer", "log_level"]["value"], found["trainer", "log_level"]["origin"]) == (
        "debug",
        f"file {file}",
    )
    assert found["gateway", "drain_s"]["origin"] == f"file {file} [gateway]"
    assert found["trainer", "drain_s"]["origin"] == "default"
    assert found["sampler", "address"]["origin"] == "environment TINSMITH_SAMPLER_ADDRESS"
    assert found["sampler", "home"]["value"] == str(tmp_path)
    assert found["trainer", "base_models"]["value"] == "tinsmith-tiny"


def test_a_taken_port_is_a_problem_and_is_named(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = tinsmith("doctor", environment={**environment, "TINSMITH_GRADER_ADDRESS": address})
    assert done.returncode == 1
    assert one_line_of(done) == (
        f"1 problem: {address} of grader is taken: see `ss -ltnp`, or use `tinsmith up --ports auto`"
    )
    assert ["grader", address, "taken"] in [line.split() for line in done.stdout.splitlines()]


def test_a_bad_setting_is_a_problem_and_the_others_are_still_shown(environment: dict[str, str]) -> None:
    done = tinsmith("doctor", "--json", environment={**environment, "TINSMITH_GRADER_DRAIN_S": "soon"})
    assert done.returncode == 1
    assert "TINSMITH_GRADER_DRAIN_S: drain_s = 'soon' does not do" in one_line_of(done)
    assert ("trainer", "drain_s") in settings(done)


def test_a_running_suite_is_shown_in_place_of_ports(tmp_path: Path, environment: dict[str, str]) -> None:
    service = ServiceState(address="127.0.0.1:5", pid=7, state="ready", restarts=2, log="")
    write_state(tmp_path, SuiteState(pid=os.getpid(), ready=True, services={"trainer": service}))
    with taken(tmp_path) as is_ours:
        assert is_ours
        found = json.loads(tinsmith("doctor", "--json", environment=environment).stdout)
    assert found["suite"] == {"trainer": "ready at 127.0.0.1:5, process 7, 2 restarts"}
    assert found["ports"] == {}
    found = json.loads(tinsmith("doctor", "--json", environment=environment).stdout)
    assert found["suite"] == {}
    assert set(found["ports"]) == {*DEFAULT_ADDRESSES, "gateway (HTTP)"}


def test_models_are_listed_with_where_they_are(tmp_path: Path) -> None:
    model = EMBEDDED_MODELS["tinsmith-tiny"]
    directory = tmp_path / "models" / f"{model.name}-{model.recipe_hash}"
    directory.mkdir(parents=True)
    environment = {"TINSMITH_MODEL_HOME": str(tmp_path)}
    found = json.loads(tinsmith("model", "list", "--json", environment=environment).stdout)
    assert {item["name"]: item["directory"] for item in found} == {
        "tinsmith-tiny": str(directory),
        "tinsmith-small": "",
    }
    built = tinsmith("model", "build", environment=environment)
    assert built.stdout == f"tinsmith-tiny is in {directory}\n"


def test_an_unknown_model_is_told_which_there_are() -> None:
    done = tinsmith("model", "build", "tinsmith-huge")
    assert done.returncode == 1
    assert one_line_of(done) == "no embedded model 'tinsmith-huge'; there are tinsmith-tiny, tinsmith-small"
