"""The torch thread among tenants: who asks for little does not wait behind who asks for much."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context

from tinsmith_server.serving import Tenant
from tinsmith_server.serving.tenants import set_current_tenant
from tinsmith_server.trainer.local.torch_queue import TorchQueue


def calling(tenant: str, call: Callable[[], Awaitable[object]]) -> "asyncio.Task[object]":
    """A call that is made in a tenant's name."""

    async def made() -> object:
        return await call()

    context = copy_context()
    context.run(set_current_tenant, Tenant(name=tenant))
    return asyncio.create_task(made(), context=context)


async def test_a_tenant_with_many_calls_is_overtaken_by_one_with_few() -> None:
    """R-02."""
    queue, order, may_go_on = TorchQueue(torch_threads=1, max_nodes=64), list[str](), threading.Event()
    first = calling("noisy", lambda: queue.run_long(may_go_on.wait))
    waiting = [
        calling(tenant, lambda name=f"{tenant}{number}": queue.run_long(lambda: order.append(name)))
        for tenant, number in (*(("noisy", number) for number in range(5)), ("quiet", 0), ("quiet", 1))
    ]
    while queue.waiting < len(waiting):  # noqa: ASYNC110  # the thread takes the first one by itself
        await asyncio.sleep(0.01)
    may_go_on.set()
    await asyncio.gather(first, *waiting)
    await queue.stop()
    assert order == ["quiet0", "quiet1", "noisy0", "noisy1", "noisy2", "noisy3", "noisy4"]


async def test_calls_of_one_tenant_keep_their_order() -> None:
    queue, order = TorchQueue(torch_threads=1, max_nodes=64), list[int]()
    await asyncio.gather(*(queue.run_long(lambda number=number: order.append(number)) for number in range(20)))
    await queue.stop()
    assert order == list(range(20))
