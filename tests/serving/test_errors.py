"""How failures reach a caller."""

import logging
from collections.abc import Callable

import grpc
import pytest

from tests.serving.puppet import Puppet
from tinsmith import TinsmithError
from tinsmith._errors import FieldViolation
from tinsmith.aio import Suite
from tinsmith.environment.v1 import (
    CreateEpisodesRequest,
    ListEnvironmentsRequest,
    ObserveRequest,
    PlayRequest,
    StepRequest,
)
from tinsmith_server.serving import errors

SECRET = "/home/someone/.ssh/id_rsa"


def _raises(puppet: Puppet, error: Exception) -> None:
    async def act() -> None:
        raise error

    puppet.act = act


async def _failure(suite: Suite) -> TinsmithError:
    with pytest.raises(TinsmithError) as failed:
        await suite.environment.ListEnvironments(ListEnvironmentsRequest())
    return failed.value


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ServiceError)]
)
async def test_a_domain_error_arrives_whole(
    suite: Suite, puppet: Puppet, kind: Callable[..., errors.ServiceError]
) -> None:
    error = kind(
        "datums[3].tokens: is empty; send at least one token",
        reason="EMPTY_DATUM",
        metadata={"datum": "3"},
        violations=[("datums[3].tokens", "is empty")],
        retry_after_s=1.25,
    )
    _raises(puppet, error)
    failed = await _failure(suite)
    assert failed.code is error.code
    assert (failed.message, failed.reason, dict(failed.metadata)) == (error.message, "EMPTY_DATUM", {"datum": "3"})
    assert failed.violations == (FieldViolation("datums[3].tokens", "is empty"),)
    assert failed.retry_after_s == 1.25


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("é" * 50_000, reason="GONE", metadata={"name": "é" * 50_000}),
        errors.InvalidArgument("no", reason="GONE", violations=[("é" * 10_000, "no")] * 100),
        TinsmithError("é" * 50_000, code=grpc.StatusCode.NOT_FOUND, reason="GONE", metadata={"name": "é" * 50_000}),
    ],
)
async def test_an_error_that_quotes_a_long_text_still_arrives(suite: Suite, puppet: Puppet, error: Exception) -> None:
    _raises(puppet, error)
    failed = await _failure(suite)
    assert (failed.code, failed.reason) == (error.code, "GONE")  # type: ignore[attr-defined]  # both kinds have one


async def test_an_unknown_failure_says_an_id_and_the_log_says_the_rest(
    suite: Suite, puppet: Puppet, caplog: pytest.LogCaptureFixture
) -> None:
    _raises(puppet, ValueError(SECRET))
    with caplog.at_level(logging.ERROR):
        failed = await _failure(suite)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    number = failed.metadata["error_id"]
    assert number in failed.message
    assert SECRET not in str(failed)
    assert "ValueError" not in str(failed)
    (record,) = [record for record in caplog.records if number in record.getMessage()]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == SECRET


async def test_two_unknown_failures_have_two_ids(suite: Suite, puppet: Puppet) -> None:
    _raises(puppet, KeyError("x"))
    assert (await _failure(suite)).metadata != (await _failure(suite)).metadata


async def test_the_failure_of_a_call_of_another_service_is_passed_on(suite: Suite, puppet: Puppet) -> None:
    error = TinsmithError(
        "no base model 'x'",
        code=grpc.StatusCode.NOT_FOUND,
        reason="BASE_MODEL_NOT_FOUND",
        metadata={"base_model": "x"},
        violations=[FieldViolation("base_model", "is not served")],
        retry_after_s=0.5,
    )
    _raises(puppet, error)
    failed = await _failure(suite)
    assert (failed.code, failed.message, failed.reason) == (error.code, error.message, error.reason)
    assert (dict(failed.metadata), failed.violations, failed.retry_after_s) == (
        error.metadata,
        error.violations,
        error.retry_after_s,
    )


async def test_a_stream_that_fails_says_why_after_what_it_sent(suite: Suite, puppet: Puppet) -> None:
    _raises(puppet, errors.Aborted("lost", reason="LOST"))

    async def requests() -> object:
        yield PlayRequest(step=StepRequest())
        yield PlayRequest(step=StepRequest())

    stream = suite.environment.Play(requests())
    await anext(stream)
    with pytest.raises(TinsmithError) as failed:
        await anext(stream)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.ABORTED, "LOST")


async def test_a_method_without_code_says_so(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as failed:
        await suite.environment.Observe(ObserveRequest(episode_id="1"))
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
    assert "Observe is not implemented yet" in failed.value.message


async def test_a_request_that_breaks_the_rules_names_each_field(suite: Suite) -> None:
    request = CreateEpisodesRequest(request_id="x" * 129)
    request.environment.text_arena.seats = -1
    request.groups.add(size=70000)
    with pytest.raises(TinsmithError) as failed:
        await suite.environment.CreateEpisodes(request)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert {violation.field for violation in failed.value.violations} == {
        "request_id",
        "environment.text_arena.id",
        "environment.text_arena.seats",
        "groups[0].size",
    }


async def test_each_message_of_a_stream_is_checked(suite: Suite) -> None:
    async def requests() -> object:
        yield PlayRequest(step=StepRequest())
        yield PlayRequest()

    stream = suite.environment.Play(requests())
    await anext(stream)
    with pytest.raises(TinsmithError) as failed:
        await anext(stream)
    assert failed.value.reason == "INVALID_REQUEST"
