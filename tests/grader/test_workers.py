"""Worker processes die; items and capacity do not."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support import serving
from tinsmith.aio import Suite
from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader import ROOM
from tinsmith_server.grader.grade import Reason
from tinsmith_server.grader.grader import Job, Judge
from tinsmith_server.grader.pool import Pool

SLOW = r"\sqrt{" + "9" * 3000 + "}"
"""Takes far more than any deadline."""


def job(answer: str, reference: str = "x") -> Job:
    return Job(judge=Judge.SYMBOLIC, answer=answer, references=(reference,))


async def _pool(workers: int = 2, worker_items: int = 1000) -> Pool:
    pool = Pool(Judge.SYMBOLIC, workers=workers, worker_items=worker_items, worker_memory_bytes=1 << 30)
    await pool.start()
    return pool


async def _busy(pool: Pool) -> int:
    """The process id of a worker that computes."""
    while True:
        for pid in pool.worker_pids():
            before = sum(psutil.Process(pid).cpu_times()[:2])
            await asyncio.sleep(0.2)
            if sum(psutil.Process(pid).cpu_times()[:2]) > before + 0.02:
                return pid


@pytest.mark.timeout(60)
async def test_a_killed_worker_costs_its_own_item_only() -> None:
    """G-08"""
    pool = await _pool()
    try:
        hit = asyncio.create_task(pool.judge(job(SLOW), 30))
        os.kill(await _busy(pool), signal.SIGKILL)
        others = await asyncio.gather(*(pool.judge(job(rf"\sqrt{{{k}}}^2", str(k)), 30) for k in range(2, 12)))
        assert (await hit).verdict.reason is Reason.CRASHED
        assert {other.verdict.reason for other in others} == {Reason.EQUAL}
        await asyncio.gather(pool.judge(job("y+1"), 30), pool.judge(job("y+2"), 30))
        assert len(pool.worker_pids()) == 2
    finally:
        await pool.stop()


@pytest.mark.timeout(60)
async def test_a_worker_is_replaced_after_its_items() -> None:
    """G-08"""
    pool = await _pool(workers=1, worker_items=3)
    try:
        pids = []
        for k in range(7):
            assert (await pool.judge(job(f"x+{k}", f"{k}+x"), 30)).verdict.reason is Reason.EQUAL
            pids.extend(pool.worker_pids())
        assert pids[0] == pids[1] == pids[2] != pids[3]
        assert len(set(pids)) == 3
    finally:
        await pool.stop()


@pytest.mark.timeout(60)
async def test_workers_come_back_after_the_nursery_was_killed() -> None:
    pool = await _pool()
    try:
        nursery = psutil.Process(pool.worker_pids()[0]).parent()
        assert nursery is not None
        assert nursery.parent() == psutil.Process()
        nursery.kill()
        verdicts = [(await pool.judge(job(f"x+{k}", f"{k}+x"), 30)).verdict.reason for k in range(6)]
        assert verdicts.count(Reason.CRASHED) <= 2
        assert verdicts[-1] is Reason.EQUAL
    finally:
        await pool.stop()


@pytest.mark.timeout(60)
async def test_a_cancelled_item_frees_its_worker() -> None:
    pool = await _pool(workers=1)
    try:
        task = asyncio.create_task(pool.judge(job(SLOW), 600))
        await _busy(pool)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await pool.judge(job("x+1", "1+x"), 30)).verdict.reason is Reason.EQUAL
    finally:
        await pool.stop()


@pytest.mark.timeout(60)
async def test_no_process_is_left_after_stop() -> None:
    pool = await _pool()
    pids = pool.worker_pids()
    await pool.stop()
    await _gone(pids)


@pytest.mark.timeout(60)
async def test_workers_die_with_the_server() -> None:
    """G-08: kill -9 of the server, with a worker in the middle of an item."""
    script = (
        "import asyncio\n"
        "from tinsmith_server.grader.grader import Job, Judge\n"
        "from tinsmith_server.grader.pool import Pool\n"
        "async def main():\n"
        "    pool = Pool(Judge.SYMBOLIC, workers=2, worker_items=9, worker_memory_bytes=1 << 30)\n"
        "    await pool.start()\n"
        "    print(*pool.worker_pids(), flush=True)\n"
        f"    await pool.judge(Job(judge=Judge.SYMBOLIC, answer={SLOW!r}, references=('x',)), 600)\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    pids = [int(word) for word in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    server.kill()
    await server.wait()
    await _gone(pids)


async def _gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.timeout(60)
async def test_a_full_queue_refuses_and_says_when_to_come_again(tmp_path: Path, kit) -> None:  # type: ignore[no-untyped-def]
    """G-08"""
    async with serving(ROOM, tmp_path, workers=1, max_waiting=5) as address, Suite.connect(grader=address) as suite:
        items = [pb.GradeItem(answer=f"x+{k}", reference=f"{k}+x") for k in range(6)]
        with pytest.raises(Exception, match="wait already") as caught:
            await suite.grader.Grade(pb.GradeRequest(grader=kit.whole(), items=items))
        assert caught.value.reason == "QUEUE_FULL"  # type: ignore[attr-defined]
        assert caught.value.retry_after_s == 1.0  # type: ignore[attr-defined]
        answer = await suite.grader.Grade(pb.GradeRequest(grader=kit.whole(), items=items[:5]))
        assert {result.reason for result in answer.results} == {"EQUAL"}
