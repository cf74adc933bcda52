"""Whatever a client sends, a suite answers with a reason, goes on living and stays quick for others."""

import base64
from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.end_to_end.driving import connect
from tests.end_to_end.hostile import Hostility
from tests.suite import RunningSuite
from tinsmith import Suite, TinsmithError
from tinsmith._services import SERVICES
from tinsmith.dataset.v1 import (
    Canonicalize,
    CatalogueSource,
    DatasetSpec,
    DescribeDatasetRequest,
    InlineSource,
    Operation,
    RowShape,
    Shuffle,
    Skip,
    Take,
)
from tinsmith.environment.v1 import CreateEpisodesRequest, EnvironmentSpec, EpisodeGroupSpec, TextArenaEnvironment
from tinsmith.orchestrator.v1 import ListRunsRequest, ListServicesRequest, StartRunRequest, UnregisterServiceRequest
from tinsmith.trainer.v1 import (
    CreateModelRequest,
    DeleteModelRequest,
    ListCheckpointsRequest,
    ListModelsRequest,
    SaveStateRequest,
)

SEED = 7
REQUESTS = 20
"""Of each method."""
CARE = (0.5, 0.9, 0.97, 0.99, 1.0)
CALL_S, HEALTH_S = 10.0, 5.0
MODEL = "hostile"


@pytest.fixture
def client(suite: RunningSuite) -> Iterator[Suite]:
    """A client that takes away what hostile requests have left."""
    with connect(suite) as client:
        before = {model.model_id for model in client.trainer.ListModels(ListModelsRequest(page_size=500)).models}
        yield client
        for model in client.trainer.ListModels(ListModelsRequest(page_size=500)).models:
            if model.model_id not in before:
                client.trainer.DeleteModel(DeleteModelRequest(model_id=model.model_id))
        for entry in client.orchestrator.ListServices(ListServicesRequest()).services:
            if entry.registered:
                client.orchestrator.UnregisterService(UnregisterServiceRequest(name=entry.name))


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_answers_nonsense_with_a_reason(suite: RunningSuite, client: Suite, service: str) -> None:
    pid = suite.service(SERVICES[service].process).pid
    with grpc.insecure_channel(suite.addresses[SERVICES[service].process]) as channel:
        for method in Default().FindServiceByName(SERVICES[service].full_name).methods:
            if method.client_streaming or method.server_streaming:
                continue
            known = {"model_id": (_model(client),), "episode_id": _episodes(client)}
            for number in range(REQUESTS):
                random = Random(f"{SEED} {method.full_name} {number}")
                hostility = Hostility(random=random, care=CARE[number % len(CARE)], known=known)
                _check_answer(channel, method, _harmless(hostility.request(method.input_type)), number)
            health = HealthStub(channel).Check(HealthCheckRequest(), timeout=HEALTH_S)
            assert health.status == HealthCheckResponse.SERVING, method.full_name
    assert suite.service(SERVICES[service].process).pid == pid


def _model(client: Suite) -> str:
    """A model that is there, also when the request before has deleted it."""
    if MODEL not in {model.model_id for model in client.trainer.ListModels(ListModelsRequest(page_size=500)).models}:
        client.trainer.CreateModel(CreateModelRequest(model_id=MODEL, base_model="tinsmith-tiny"))
    return MODEL


def _episodes(client: Suite) -> tuple[str, ...]:
    game = EnvironmentSpec(text_arena=TextArenaEnvironment(id="TicTacToe-v0"))
    request = CreateEpisodesRequest(environment=game, groups=[EpisodeGroupSpec(size=2)])
    return tuple(client.environment.CreateEpisodes(request).groups[0].episode_ids)


def _harmless(request: Any) -> Any:
    """Runs do not begin, and calls do not wait for others that never come: both are promised, neither is tested."""
    if "dry_run" in request.DESCRIPTOR.fields_by_name:
        request.dry_run = True
    if "seq_id" in request.DESCRIPTOR.fields_by_name:
        request.seq_id = 0
    return request


def _check_answer(channel: grpc.Channel, method: MethodDescriptor, request: Message, number: int) -> None:
    assert method.containing_service is not None
    call = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
    )
    answer = call.future(request, timeout=CALL_S)
    code = answer.code()
    what = f"{method.full_name}, request {number}: {code} {answer.details()}"
    assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), what
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED) or _reason(answer), what


def _reason(answer: Any) -> str:
    info = ErrorInfo()
    packed = dict(answer.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    return next((info.reason for detail in Status.FromString(packed).details if detail.Unpack(info)), "")


@pytest.mark.parametrize(
    "words",
    ["[" * 20_000, '["\\ud800", "x"]', f'["{"9" * 30}", "x"]', f'["{"9" * 5000}", "x"]', '["1", "\\ud800"]'],
    ids=["deep", "half a character", "large number", "huge number", "half a name"],
)
def test_forged_page_token(client: Suite, words: str) -> None:
    token = base64.urlsafe_b64encode(words.encode()).decode()
    with pytest.raises(TinsmithError, match="BAD_PAGE_TOKEN"):
        client.orchestrator.ListRuns(ListRunsRequest(page_token=token))


@pytest.mark.parametrize(
    ("key", "text"),
    [("steps", "9" * 5000), ("sampling", "[" * 20_000), ("sampling", '{"\\ud800": 1}'), ("group_size", '["\\ud800"]')],
    ids=["huge number", "deep", "half a character", "list of half a character"],
)
def test_override_that_python_can_not_read(client: Suite, key: str, text: str) -> None:
    request = StartRunRequest(recipe="math_rl", overrides={key: text}, dry_run=True)
    with pytest.raises(TinsmithError, match="BAD_CONFIG"):
        client.orchestrator.StartRun(request)


@pytest.mark.parametrize("ttl", [Duration(seconds=315_576_000_000), Duration(seconds=-1), Duration(nanos=-1)], ids=str)
def test_time_to_live_beyond_every_calendar(client: Suite, ttl: Duration) -> None:
    with pytest.raises(TinsmithError, match="INVALID_REQUEST"):
        client.trainer.SaveState(SaveStateRequest(model_id=_model(client), name="late", ttl=ttl))


def test_checkpoints_of_an_unknown_kind(client: Suite) -> None:
    with pytest.raises(TinsmithError, match="INVALID_REQUEST"):
        client.checkpoints.ListCheckpoints(ListCheckpointsRequest(kind=99))  # type: ignore[arg-type]  # as others may


def test_tool_calls_that_are_no_list(client: Suite) -> None:
    source = InlineSource(rows_json=[b'{"messages": [{"role": "user", "content": "x", "tool_calls": 7}]}'])
    shape = Operation(canonicalize=Canonicalize(shape=RowShape.ROW_SHAPE_CONVERSATION))
    spec = DatasetSpec(inline=source, operations=[shape])
    with pytest.raises(TinsmithError, match="BAD_ROW"):
        client.datasets.DescribeDataset(DescribeDatasetRequest(dataset=spec, examples=1))


@pytest.mark.parametrize(
    "order", [Operation(shuffle=Shuffle()), Operation(skip=Skip(count=1))], ids=["shuffle", "skip"]
)
def test_order_of_more_rows_than_memory_has_room_for(client: Suite, order: Operation) -> None:
    source = CatalogueSource(name="arithmetic")
    spec = DatasetSpec(catalogue=source, operations=[Operation(take=Take(count=1 << 62)), order])
    with pytest.raises(TinsmithError, match="ENDLESS_DATASET"):
        client.datasets.DescribeDataset(DescribeDatasetRequest(dataset=spec))


def test_half_of_a_character_in_what_an_error_names(client: Suite) -> None:
    game = EnvironmentSpec(text_arena=TextArenaEnvironment(id="TicTacToe-v0", options_json='{"\\ud800": 1}'))
    with pytest.raises(TinsmithError, match="BAD_OPTIONS"):
        client.environment.CreateEpisodes(CreateEpisodesRequest(environment=game, groups=[EpisodeGroupSpec()]))
