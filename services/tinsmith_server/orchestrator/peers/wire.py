"""Arrays of the orchestrator as messages of the contract, and back."""

from tinsmith.arrays import flat_and_offsets, ragged_of
from tinsmith.types.v1 import RaggedTensor
from tinsmith_server.orchestrator.ragged import Ragged


def to_message(rows: Ragged) -> RaggedTensor:
    """Rows as a message."""
    return ragged_of(rows.flat, rows.offsets)


def from_message(message: RaggedTensor) -> Ragged:
    """A message's rows, sharing its memory."""
    flat, offsets = flat_and_offsets(message)
    return Ragged(flat=flat, offsets=offsets)
