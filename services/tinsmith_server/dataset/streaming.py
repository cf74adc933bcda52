"""A stream of batches that is never further ahead than its reader allows."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from tinsmith_server.dataset.batching import RowBatch
from tinsmith_server.dataset.credit import Credit
from tinsmith_server.dataset.reading import BatchReader
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, OutOfRange

DEFAULT_CREDIT = 4


async def stream_batches(
    reader: BatchReader, *, start: int, credit: int, grants: AsyncIterator[int]
) -> AsyncGenerator[RowBatch, None]:
    """Batches from `start` to the last, each when there is credit for it; `grants` brings more.

    FailedPrecondition with reason CREDIT_EXHAUSTED when the reader closed its side and the data have not ended;
    InvalidArgument with reason BAD_CREDIT for credit that is not positive.
    """
    account = Credit(credit or DEFAULT_CREDIT)
    listening = asyncio.create_task(_listen(grants, account))
    try:
        index = start
        while (found := await _next(reader, index)) is not None:
            if not await account.use():
                raise FailedPrecondition(
                    f"batch {index} waits, but the reader has closed its side without credit for it; grant more credit "
                    "or go on from the last cursor",
                    reason="CREDIT_EXHAUSTED",
                    metadata={"batch": str(index)},
                )
            yield found
            index += 1
    finally:
        listening.cancel()


async def _next(reader: BatchReader, index: int) -> RowBatch | None:
    """A batch; None behind the last."""
    try:
        return await reader.read(index)
    except OutOfRange as end:
        if end.reason != "END_OF_DATA":
            raise
        return None


async def _listen(grants: AsyncIterator[int], account: Credit) -> None:
    try:
        async for batches in grants:
            if batches <= 0:
                raise InvalidArgument(
                    f"credit {batches} is not positive", reason="BAD_CREDIT", metadata={"credit": str(batches)}
                )
            account.grant(batches)
        account.close()
    except Exception as error:  # told to the reader by the task that writes to it
        account.close(error)
