"""How a room comes to a Tinker service, and what it keeps to itself."""

import asyncio
import logging
import socket
import time
from pathlib import Path

import pytest

from tests.conformance.calls import sample_request, train
from tests.support import serving
from tests.tinker_client.conftest import Bench
from tests.tinker_client.test_training_faults import create
from tests.tinker_server.faults import GARBAGE, Status, hang
from tests.tinker_server.server import API_KEY
from tinsmith.aio import Suite, TinsmithError
from tinsmith_server.serving import CannotServe
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.settings import TrainerSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")
SOON = {"tinker_timeout_s": 8.0, "tinker_patience_s": 0.5}


async def start(home: Path, **settings: object) -> str:
    """Starts a trainer that can't; what it says to its operator."""
    with pytest.raises(CannotServe) as failed:
        async with serving(ROOM, home, **{"backend": "tinker", **SOON, **settings}):
            pass
    return str(failed.value)


async def test_trainer_does_not_start_without_its_service(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    said = await start(tmp_path, tinker_base_url=f"http://127.0.0.1:{port}", tinker_api_key=API_KEY)
    assert "BACKEND_UNAVAILABLE" in said
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(Status(500), "BACKEND_UNAVAILABLE"), (hang, "BACKEND_UNAVAILABLE"), (GARBAGE, "BACKEND_BAD_ANSWER")],
)
async def test_trainer_does_not_start_at_a_service_that_fails(
    bench: Bench, tmp_path: Path, fault: object, reason: str
) -> None:
    bench.faults.always("client/config", fault)  # type: ignore[arg-type]  # one of them
    assert reason in await start(tmp_path, tinker_base_url=bench.server.base_url, tinker_api_key=API_KEY)


@pytest.mark.parametrize("key", ["tml-somebody-else", "no-key-at-all"])
async def test_wrong_key(bench: Bench, tmp_path: Path, key: str) -> None:
    said = await start(tmp_path, tinker_base_url=bench.server.base_url, tinker_api_key=key)
    assert "BACKEND_CREDENTIALS" in said
    assert "tinker_api_key" in said
    assert key not in said


async def test_key_from_the_environment_of_the_sdk(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", API_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", bench.server.base_url)
    settings = {"backend": "tinker", "base_models": bench.server.base_model, **SOON}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        assert suite.trainer is not None


async def test_base_model_that_the_service_lacks(bench: Bench, tmp_path: Path) -> None:
    said = await start(
        tmp_path, tinker_base_url=bench.server.base_url, tinker_api_key=API_KEY, base_models="mine=Nobody/Nothing-1B"
    )
    assert "BASE_MODEL_NOT_FOUND" in said
    assert "Nobody/Nothing-1B" in said
    assert bench.server.base_model in said


async def test_key_is_neither_logged_nor_shown(
    bench: Bench, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    model = await create(bench.suite)
    await train(bench.suite, model, 1)
    echo = Status(401, b'{"detail": "no account has the key %s"}' % API_KEY.encode())
    bench.faults.always("optim_step", echo)
    bench.faults.always("asample", echo)
    with pytest.raises(TinsmithError) as failed:
        await train(bench.suite, model, 1)
    with pytest.raises(TinsmithError):
        await bench.suite.sampler.Sample(sample_request([[1]]))
    assert caplog.text
    written = capfd.readouterr()
    assert API_KEY not in caplog.text + str(failed.value) + written.out + written.err
    assert API_KEY not in repr(TrainerSettings.model_validate({"tinker_api_key": API_KEY}))


async def test_nothing_is_reported_to_the_service_behind_the_operators_back(bench: Bench) -> None:
    await train(bench.suite, await create(bench.suite), 1)
    await asyncio.sleep(0)
    assert "telemetry" not in bench.faults.asked
