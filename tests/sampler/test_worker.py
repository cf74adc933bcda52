"""The thread that runs torch."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from types import SimpleNamespace

import pytest

from tinsmith_server.sampler.local import worker as worker_module
from tinsmith_server.sampler.local.worker import Job as Ticketed
from tinsmith_server.sampler.local.worker import TakingTurns, TorchWorker
from tinsmith_server.serving.errors import ResourceExhausted, Unavailable

Work = Generator[None, None, str]


@pytest.fixture
def make() -> Iterator[Callable[..., TorchWorker]]:
    """Workers that are stopped at the end."""
    made = []

    def worker(*, max_running: int = 8, max_waiting: int = 8) -> TorchWorker:
        made.append(TorchWorker(max_running=max_running, max_waiting=max_waiting, torch_threads=1))
        made[-1].start()
        return made[-1]

    yield worker
    for each in made:
        each.stop()


class Job:
    """Takes steps, each of which waits for leave, and writes them down."""

    def __init__(self, name: str, steps: int, diary: list[str]) -> None:
        self.name, self.steps, self.diary = name, steps, diary
        self.closed = threading.Event()
        self.leave = threading.Semaphore(0)
        self.begun = threading.Event()

    def work(self) -> Work:
        try:
            for _ in range(self.steps):
                self.begun.set()
                self.leave.acquire(timeout=30)
                self.diary.append(self.name)
                yield
            return self.name
        finally:
            self.closed.set()


async def begun(job: Job) -> None:
    assert await asyncio.to_thread(job.begun.wait, 30)


async def closed(job: Job) -> None:
    assert await asyncio.to_thread(job.closed.wait, 30)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # what is waited for happens on another thread
            await asyncio.sleep(0.005)


async def test_jobs_take_turns_step_by_step(make: Callable[..., TorchWorker]) -> None:
    """A long answer never holds up a short one."""
    worker, diary = make(), list[str]()
    long, short = Job("long", 50, diary), Job("short", 3, diary)
    long_task = asyncio.create_task(worker.run(long.work()))
    await begun(long)
    short_task = asyncio.create_task(worker.run(short.work()))
    await until(lambda: worker.status().waiting == 1)
    for job in (long, short):
        job.leave.release(100)
    assert await short_task == "short"
    assert await long_task == "long"
    assert "".join(name[0] for name in diary).startswith("llslslsl")


async def test_a_cancelled_job_ends_before_its_next_step(make: Callable[..., TorchWorker]) -> None:
    worker, diary = make(), list[str]()
    job = Job("job", 1000, diary)
    task = asyncio.create_task(worker.run(job.work()))
    await begun(job)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    job.leave.release(1000)
    await closed(job)
    assert len(diary) == 1
    await until(lambda: worker.status().running == 0)


async def test_a_cancelled_job_that_waits_leaves_the_queue_at_once(make: Callable[..., TorchWorker]) -> None:
    worker = make(max_running=1, max_waiting=1)
    first, second, third = (Job(name, 1, []) for name in "abc")
    running = asyncio.create_task(worker.run(first.work()))
    await begun(first)
    waiting = asyncio.create_task(worker.run(second.work()))
    await until(lambda: worker.status().full)
    waiting.cancel()
    await until(lambda: not worker.status().full)
    later = asyncio.create_task(worker.run(third.work()))
    for job in (first, third):
        job.leave.release()
    assert await asyncio.gather(running, later) == ["a", "c"]
    assert not second.begun.is_set()


async def test_a_full_queue_refuses_and_says_when_to_retry(make: Callable[..., TorchWorker]) -> None:
    worker = make(max_running=1, max_waiting=0)
    first, second = Job("first", 1, []), Job("second", 1, [])
    running = asyncio.create_task(worker.run(first.work()))
    await begun(first)
    with pytest.raises(ResourceExhausted) as caught:
        await worker.run(second.work())
    first.leave.release()
    assert await running == "first"
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 0


async def test_a_failed_job_fails_its_caller_only(make: Callable[..., TorchWorker]) -> None:
    worker = make()

    def broken() -> Work:
        yield
        raise LookupError("mine")

    good = Job("good", 3, [])
    good.leave.release(3)
    results = await asyncio.gather(worker.run(broken()), worker.run(good.work()), return_exceptions=True)
    assert isinstance(results[0], LookupError)
    assert results[1] == "good"


async def test_short_calls_run_between_two_steps(make: Callable[..., TorchWorker]) -> None:
    worker, diary = make(), list[str]()
    job = Job("step", 4, diary)
    task = asyncio.create_task(worker.run(job.work()))
    await begun(job)
    call = asyncio.create_task(worker.call(lambda: diary.append("call")))
    await asyncio.sleep(0)
    job.leave.release(4)
    await asyncio.gather(task, call)
    assert diary == ["step", "call", "step", "step", "step"]
    with pytest.raises(ZeroDivisionError):
        await worker.call(lambda: 1 // 0)


async def test_stopping_answers_whoever_waits(make: Callable[..., TorchWorker]) -> None:
    worker, working = make(max_running=1), threading.Event()

    def endless() -> Work:
        while True:
            working.set()
            time.sleep(0.001)
            yield

    tasks = [asyncio.create_task(worker.run(job)) for job in (endless(), Job("waits", 1, []).work())]
    assert await asyncio.to_thread(working.wait, 30)
    await asyncio.to_thread(worker.stop)
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, Unavailable)
    with pytest.raises(Unavailable):
        await worker.run(endless())


def test_a_worker_that_never_started_can_be_stopped() -> None:
    TorchWorker(max_running=1, max_waiting=1, torch_threads=1).stop()


async def test_every_change_of_the_queue_is_told(make: Callable[..., TorchWorker]) -> None:
    worker, seen = make(max_running=1), list[tuple[int, int]]()
    worker.on_change = lambda: seen.append((worker.status().waiting, worker.status().running))
    job = Job("job", 1, [])
    task = asyncio.create_task(worker.run(job.work()))
    await begun(job)
    assert seen[-1] == (0, 1)
    job.leave.release()
    await task
    await until(lambda: seen[-1] == (0, 0))


async def test_a_turn_that_fails_ends_its_own_requests_and_not_the_thread(make: Callable[..., TorchWorker]) -> None:
    worker = make()

    class Faulty(TakingTurns):
        def turn(self) -> None:
            if self.running:
                raise RuntimeError("out of memory")

    faulty = Faulty(most=1)
    worker.add(faulty)
    with pytest.raises(RuntimeError, match="out of memory"):
        await worker.submit(faulty, Ticketed(Job("never", 1, []).work()))
    assert worker.status().running == 0
    good = Job("good", 1, [])
    good.leave.release()
    assert await worker.run(good.work()) == "good"


async def test_nothing_is_kept_of_who_waited_and_went(make: Callable[..., TorchWorker]) -> None:
    """Callers that come and go while the line does not move."""
    worker = make(max_running=1, max_waiting=2)
    first, second, third = (Job(name, 1, []) for name in "abc")
    tasks = [asyncio.create_task(worker.run(first.work()))]
    await begun(first)
    tasks.append(asyncio.create_task(worker.run(second.work())))
    await until(lambda: worker.status().waiting == 1)
    gone = asyncio.create_task(worker.run(third.work()))
    await until(lambda: worker.status().waiting == 2)
    gone.cancel()
    await asyncio.wait([gone])
    trace = weakref.ref(third)
    del gone, third
    gc.collect()
    assert trace() is None
    for job in (first, second):
        job.leave.release()
    assert await asyncio.gather(*tasks) == ["a", "b"]


async def test_idle_time_is_nobodys_pace(make: Callable[..., TorchWorker], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quiet night the first who is refused need not wait until the next."""
    now = [0.0]
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    worker = make(max_running=1, max_waiting=0)
    early, running = Job("early", 1, []), Job("running", 1, [])
    early.leave.release()
    assert await worker.run(early.work()) == "early"
    await until(lambda: worker.status().running == 0)
    await asyncio.to_thread(time.sleep, 0.1)  # the thread falls asleep
    now[0] = 36000.0
    later = Job("later", 1, [])
    later.leave.release()
    assert await worker.run(later.work()) == "later"
    task = asyncio.create_task(worker.run(running.work()))
    await begun(running)
    with pytest.raises(ResourceExhausted) as caught:
        await worker.run(Job("refused", 1, []).work())
    running.leave.release()
    await task
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s < 60
