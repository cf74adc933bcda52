"""The Python SDK: errors, resumed watches, addresses, tensors; against a real server on port 0."""

import json
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.code_pb2 import INVALID_ARGUMENT
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status.rpc_status import to_status
from hypothesis import given
from hypothesis import strategies as st

from tinsmith import Addresses, FieldViolation, Suite, TinsmithError, aio, watch_run
from tinsmith.arrays import array, flat_and_offsets, ragged, rows, tensor
from tinsmith.orchestrator.v1 import (
    GetRunRequest,
    GetRunResponse,
    OrchestratorServiceServicer,
    Run,
    RunEvent,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
    add_OrchestratorServiceServicer_to_server,
)
from tinsmith.types.v1 import DTYPE_FLOAT32, RaggedTensor, Tensor

EVENTS = [RunEvent(seq=number, step=number) for number in range(1, 11)]


class Orchestrator(OrchestratorServiceServicer):
    """Answers what a test asks of it; breaks its first two watches after three events each."""

    def __init__(self, *, failures: int = 0) -> None:
        self.watches: list[int] = []
        self.starts: list[str] = []
        self._failures = failures

    def StartRun(self, request: StartRunRequest, context: Any) -> StartRunResponse:
        self.starts.append(request.request_id)
        if len(self.starts) <= self._failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return StartRunResponse(run=Run(display_name=request.display_name))

    def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        if request.run_id == "refused":
            context.abort_with_status(to_status(_refusal()))
        return GetRunResponse(run=Run(run_id=request.run_id))

    def WatchRun(self, request: WatchRunRequest, context: Any) -> Iterator[WatchRunResponse]:
        self.watches.append(request.after_seq)
        for number, event in enumerate(EVENTS[request.after_seq :]):
            if number == 3 and len(self.watches) <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            yield WatchRunResponse(events=[event], seen_seq=event.seq)


def _refusal() -> Status:
    details = [
        ErrorInfo(reason="BAD_CONFIG", domain="tinsmith", metadata={"key": "lr"}),
        BadRequest(field_violations=[BadRequest.FieldViolation(field="lr", description="must be positive")]),
        RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)),
    ]
    packed = []
    for detail in details:
        any_message = AnyMessage()
        any_message.Pack(detail)
        packed.append(any_message)
    return Status(code=INVALID_ARGUMENT, message="lr is wrong", details=packed)


@contextmanager
def serving(orchestrator: Orchestrator) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_OrchestratorServiceServicer_to_server(orchestrator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)


def check_refusal(error: TinsmithError) -> None:
    assert (error.code, error.reason, error.message) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_CONFIG", "lr is wrong")
    assert error.metadata == {"key": "lr"}
    assert error.violations == (FieldViolation("lr", "must be positive"),)
    assert error.retry_after_s == 2.5


def test_a_failed_call_raises_one_error_with_all_its_details() -> None:
    with serving(Orchestrator()) as address, Suite.connect(orchestrator=address) as suite:
        assert suite.orchestrator.GetRun(GetRunRequest(run_id="fine")).run.run_id == "fine"
        with pytest.raises(TinsmithError) as caught:
            suite.orchestrator.GetRun(GetRunRequest(run_id="refused"))
        check_refusal(caught.value)
        check_refusal(pickle.loads(pickle.dumps(caught.value)))


async def test_a_failed_call_raises_the_same_error_in_asyncio() -> None:
    with serving(Orchestrator()) as address:
        async with aio.Suite.connect(orchestrator=address) as suite:
            with pytest.raises(TinsmithError) as caught:
                await suite.orchestrator.GetRun(GetRunRequest(run_id="refused"))
            check_refusal(caught.value)


def test_a_service_that_is_away_is_unavailable_not_a_hang() -> None:
    with Suite.connect(orchestrator="127.0.0.1:1") as suite, pytest.raises(TinsmithError) as caught:
        suite.orchestrator.GetRun(GetRunRequest(run_id="x"), timeout=10)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_retries_of_one_call_share_a_request_id_and_other_calls_do_not() -> None:
    """R-12: a call that is tried again has one effect, also when its caller gave it no id."""
    orchestrator, request = Orchestrator(failures=2), StartRunRequest(display_name="mine")
    with serving(orchestrator) as address, Suite.connect(orchestrator=address) as suite:
        for _ in range(2):
            assert suite.orchestrator.StartRun(request).run.display_name == "mine"
        suite.orchestrator.StartRun(StartRunRequest(request_id="given"))
    first, again, third, other, given_id = orchestrator.starts
    assert first == again == third != ""
    assert other not in ("", first)
    assert given_id == "given"
    assert request.request_id == "", "the caller's message stays as it was"


async def test_calls_carry_a_request_id_in_asyncio_too() -> None:
    orchestrator = Orchestrator()
    with serving(orchestrator) as address:
        async with aio.Suite.connect(orchestrator=address) as suite:
            await suite.orchestrator.StartRun(StartRunRequest())
    assert orchestrator.starts != [""]


def test_a_watch_that_breaks_goes_on_behind_the_last_event() -> None:
    orchestrator = Orchestrator()
    with serving(orchestrator) as address, Suite.connect(orchestrator=address) as suite:
        seen = [event.seq for answer in watch_run(suite, "run") for event in answer.events]
    assert seen == list(range(1, 11))
    assert orchestrator.watches == [0, 3, 6]


async def test_a_watch_goes_on_in_asyncio_too() -> None:
    orchestrator = Orchestrator()
    with serving(orchestrator) as address:
        async with aio.Suite.connect(orchestrator=address) as suite:
            watch: AsyncIterator[WatchRunResponse] = aio.watch_run(suite, "run")
            seen = [event.seq async for answer in watch for event in answer.events]
    assert seen == list(range(1, 11))


def test_addresses_come_from_arguments_then_environment_then_the_suite_in_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = {name: {"address": f"home-{name}:1"} for name in ("trainer", "sampler", "grader", "gateway")}
    (tmp_path / "suite.json").write_text(json.dumps({"services": services}))
    monkeypatch.setenv("TINSMITH_SAMPLER_ADDRESS", "environment:1")
    monkeypatch.setenv("TINSMITH_GRADER_ADDRESS", "environment:2")
    found = Addresses.find(tmp_path, grader="argument:1")
    assert (found.trainer, found.sampler, found.grader) == ("home-trainer:1", "environment:1", "argument:1")
    assert found.dataset == "127.0.0.1:50053"
    with pytest.raises(FileNotFoundError, match="tinsmith up"):
        Addresses.find(tmp_path / "nothing")
    with pytest.raises(TypeError, match="no such service: trainor"):
        Addresses.find(tmp_path, trainor="x:1")


@pytest.mark.parametrize("content", [b"\xff[[", b"", b"[]", b'{"services": 5}', b'{"services": {"trainer": {}}}'])
def test_damaged_state_of_a_suite_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "suite.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"suite\.json is damaged"):
        Addresses.find(tmp_path)


def test_the_client_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'transformers', 'tinsmith_server'): sys.modules[name] = None\n"
        "import tinsmith, tinsmith.aio\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=6))
def test_ragged_rows_survive_the_wire(values: list[list[int]]) -> None:
    message = RaggedTensor.FromString(ragged(values, np.int32).SerializeToString())
    assert [row.tolist() for row in rows(message)] == values


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 4)])
def test_tensors_survive_the_wire(shape: tuple[int, ...]) -> None:
    """N-20, N-21, N-23: float64 becomes float32, integers int64 exactly."""
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) / 3
    back = array(Tensor.FromString(tensor(values).SerializeToString()))
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values.astype(np.float32))
    assert array(tensor(np.array([9007199254740993]))).tolist() == [9007199254740993]


def test_bytes_stay_bytes() -> None:
    """N-25: a million float32 cost four bytes each."""
    assert len(tensor(np.zeros(1_000_000, np.float32)).SerializeToString()) < 4_000_100


@pytest.mark.parametrize(
    ("offsets", "problem"), [([1, 2], "rise from 0"), ([0, 3], "rise from 0"), ([0, 2, 1, 2], "rise from 0")]
)
def test_offsets_that_do_not_fit_are_refused(offsets: list[int], problem: str) -> None:
    message = RaggedTensor(
        dtype=DTYPE_FLOAT32, offsets=np.array(offsets, "<i8").tobytes(), data=np.zeros(2, "<f4").tobytes()
    )
    with pytest.raises(ValueError, match=problem):
        flat_and_offsets(message)
