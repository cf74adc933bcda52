"""Clients of Tinsmith: LLM post-training as protobuf services.

    from tinsmith import Suite
    from tinsmith.orchestrator.v1 import StartRunRequest

    with Suite.connect() as suite:
        run = suite.orchestrator.StartRun(StartRunRequest(recipe="math_rl")).run

`tinsmith.aio.Suite` is the same for asyncio. Messages, enums and stubs of each area are at `tinsmith.<area>.v1`.
"""

from tinsmith._addresses import Addresses
from tinsmith._checkpoints import download_checkpoint, upload_checkpoint
from tinsmith._errors import FieldViolation, TinsmithError
from tinsmith._sync import Suite, watch_run

__all__ = [
    "Addresses",
    "FieldViolation",
    "Suite",
    "TinsmithError",
    "download_checkpoint",
    "upload_checkpoint",
    "watch_run",
]
__version__ = "0.1.0"
