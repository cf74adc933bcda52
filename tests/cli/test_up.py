"""`tinsmith up`: starts every room, keeps it alive at its address, leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.fake_suite import NAMES
from tests.cli.programs import ROOT
from tests.suite import wait_until
from tinsmith_server.cli.plan import SuitePlan
from tinsmith_server.cli.ports import DEFAULT_ADDRESSES, UserSettings, free_ports, reachable
from tinsmith_server.cli.state import SuiteState, read_state, write_state

PROGRAM = [sys.executable, "-m", "tests.cli.fake_suite"]
PATIENCE_S = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `up` with rooms that need no model, in a folder of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(ports: str = "auto", home: Path = tmp_path / "home", **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*PROGRAM, "up", str(home), ports],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ready(home: Path, process: "subprocess.Popen[str]") -> SuiteState:
    """The state of the suite as soon as every room is ready."""

    def is_ready() -> bool:
        assert process.poll() is None, process.communicate()
        state = read_state(home)
        return state is not None and state.pid == process.pid and state.ready

    wait_until(is_ready, PATIENCE_S, lambda: f"not ready: {read_state(home)}")
    state = read_state(home)
    assert state is not None
    return state


def pids(state: SuiteState) -> list[int]:
    return [service.pid for service in state.services.values() if service.pid is not None]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def all_gone(numbers: list[int]) -> None:
    wait_until(lambda: all(gone(pid) for pid in numbers), PATIENCE_S, lambda: f"left: {numbers}")


def test_rooms_start_in_order_and_stop_in_reverse_leaving_nothing(home: Path, start: Start) -> None:
    process = start()
    state = ready(home, process)
    assert list(state.services) == list(NAMES)
    process.terminate()
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")
    lines = output.splitlines()
    assert [line.split()[0] for line in lines if " stopped " in line] == list(reversed(NAMES))
    assert lines[-1] == "stopped"
    assert "\x1b" not in output
    assert all(gone(pid) for pid in pids(state))
    assert not (home / "suite.json").exists()


def test_callers_get_the_addresses_of_the_others(home: Path, start: Start) -> None:
    state = ready(home, start())
    grader, dataset = state.services["grader"].address, state.services["dataset"].address
    assert f"grader={grader} dataset={dataset}" in Path(state.services["orchestrator"].log).read_text()


def test_the_users_own_service_stays_in_a_rooms_place(home: Path, start: Start) -> None:
    state = ready(home, start(TINSMITH_ORCHESTRATOR_GRADER="grader.example:9"))
    assert "grader=grader.example:9 " in Path(state.services["orchestrator"].log).read_text()


def test_a_killed_room_comes_back_at_the_same_address(home: Path, start: Start) -> None:
    process = start()
    before = ready(home, process).services["grader"]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: _restarts(home) == 1, PATIENCE_S, lambda: "the death was not noticed")
    after = ready(home, process).services["grader"]
    assert after.address == before.address
    assert after.pid != before.pid


def _restarts(home: Path) -> int:
    state = read_state(home)
    return state.services["grader"].restarts if state else 0


def test_when_the_supervisor_is_killed_its_rooms_end_too(home: Path, start: Start) -> None:
    process = start()
    state = ready(home, process)
    process.kill()
    all_gone(pids(state))


def test_a_second_suite_in_one_home_is_refused(home: Path, start: Start) -> None:
    first = start()
    ready(home, first)
    second = start()
    _, errors = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert errors.startswith(f"a suite runs in {home} already (process {first.pid}; stop it with `kill {first.pid}`)")
    assert first.poll() is None


def test_the_home_of_a_killed_suite_is_taken_over(home: Path, start: Start) -> None:
    first = start()
    old = ready(home, first)
    first.kill()
    first.wait()
    second = start()
    new = ready(home, second)
    assert new.pid == second.pid
    assert all(gone(pid) for pid in pids(old))
    second.terminate()
    output, _ = second.communicate(timeout=PATIENCE_S)
    assert output.startswith(f"the suite of process {first.pid} did not end well; taking over its home")


def test_a_room_that_says_why_it_can_not_serve_ends_the_start_with_its_words(home: Path, start: Start) -> None:
    process = start(FAKE_GRADER="fail", FAKE_COUNT=str(home.parent / "count"))
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith("grader can't start: grader: the disk is on fire; put it out [DISK_ON_FIRE] (log: ")
    assert errors.count("\n") == 1
    assert (home.parent / "count").read_text().count("g") == 1
    assert not (home / "suite.json").exists()


def test_a_room_that_keeps_dying_at_its_start_is_given_up(home: Path, start: Start) -> None:
    process = start(FAKE_GRADER="crash", FAKE_COUNT=str(home.parent / "count"))
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith("grader can't start: ")
    assert (home.parent / "count").read_text().count("g") == 5


def test_a_taken_port_ends_the_start_and_is_named(home: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = {f"TINSMITH_{name.upper()}_ADDRESS": f"127.0.0.1:{port}" for name, port in _others()}
        process = start("default", **{**addresses, "TINSMITH_GRADER_ADDRESS": address})
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.startswith(f"grader can't start: grader: can't listen on {address}: it is taken by another program")


def _others() -> Iterator[tuple[str, int]]:
    return zip(("dataset", "orchestrator"), free_ports(), strict=False)


def test_ports_are_free_and_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = [port for port, _ in zip(free_ports(), range(50), strict=False)]
    assert len(set(ports)) == 50
    assert max(ports) < lowest
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_default_addresses_are_those_of_clients_and_rooms() -> None:
    from dataclasses import asdict

    from tinsmith import Addresses
    from tinsmith_server.serving import ROOMS, find_room

    assert {room: DEFAULT_ADDRESSES[room] for room in asdict(Addresses())} == asdict(Addresses())
    assert list(ROOMS) == list(SuitePlan(home=Path()).rooms)
    gateway = find_room("gateway").settings()
    assert gateway.address == DEFAULT_ADDRESSES["gateway"]


@pytest.mark.parametrize(
    ("listened", "called"),
    [
        ("0.0.0.0:5,unix:/s", "127.0.0.1:5"),
        ("[::]:5", "[::1]:5"),
        ("unix:/run/s", "unix:/run/s"),
        ("host:5", "host:5"),
    ],
)
def test_clients_are_told_an_address_that_they_can_call(listened: str, called: str) -> None:
    assert reachable(listened) == called


def test_base_models_that_the_file_sets_for_one_room_stay(tmp_path: Path) -> None:
    user = UserSettings(environment={}, file={"sampler": {"base_models": ["mine=/m"]}})
    plans = SuitePlan(home=tmp_path, ports="auto", base_models=["a=/a"], user=user).rooms_to_start()
    models = {plan.name: plan.environment.get("TINSMITH_BASE_MODELS") for plan in plans}
    assert models["trainer"] == "a=/a"
    assert models["sampler"] is None


def test_rooms_that_want_keys_know_each_other_by_a_secret(tmp_path: Path) -> None:
    """R-02: one secret for all rooms, made where the user has keys but no secret."""

    def secrets_of(environment: dict[str, str], file: dict[str, str]) -> set[str | None]:
        user = UserSettings(environment=environment, file=file)
        plans = SuitePlan(home=tmp_path, ports="auto", user=user).rooms_to_start()
        return {plan.environment.get("TINSMITH_SERVICE_KEY") for plan in plans}

    assert secrets_of({}, {}) == {None}
    for with_keys in (({"TINSMITH_API_KEYS": "/keys"}, {}), ({}, {"api_keys": "/keys"})):
        [secret] = secrets_of(*with_keys)
        assert secret is not None
        assert len(secret) == 64
    assert secrets_of({"TINSMITH_API_KEYS": "/keys", "TINSMITH_SERVICE_KEY": "mine"}, {}) == {"mine"}
    assert secrets_of({}, {"api_keys": "/keys", "service_key": "mine"}) == {None}


def test_state_is_never_half_written(tmp_path: Path) -> None:
    write_state(tmp_path, SuiteState(pid=1, ready=False, services={}))
    assert [path.name for path in tmp_path.iterdir()] == ["suite.json"]
    (tmp_path / "suite.json").write_text('{"pid": 1')
    assert read_state(tmp_path) is None
    (tmp_path / "suite.json").write_text(json.dumps({"pid": 1, "ready": True, "services": {"trainer": {}}}))
    assert read_state(tmp_path) is None
