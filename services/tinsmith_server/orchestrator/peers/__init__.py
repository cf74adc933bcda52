"""The other services, as a recipe uses them: arrays and words in, arrays and words out."""

from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.dataset import DatasetFacts, ProblemSource
from tinsmith_server.orchestrator.peers.environment import EpisodeGroups, Outcomes
from tinsmith_server.orchestrator.peers.failures import CallFailed, RunCancelled, StateLost
from tinsmith_server.orchestrator.peers.peers import Peers
from tinsmith_server.orchestrator.peers.renderer import Format, Prompts, Said
from tinsmith_server.orchestrator.peers.sampler import Answers
from tinsmith_server.orchestrator.peers.trainer import Adam, Datums, FreshModel, LoadedModel, Update, Weights

__all__ = [
    "Adam",
    "Answers",
    "CallFailed",
    "Caller",
    "DatasetFacts",
    "Datums",
    "EpisodeGroups",
    "Format",
    "FreshModel",
    "LoadedModel",
    "Outcomes",
    "Peers",
    "ProblemSource",
    "Prompts",
    "RunCancelled",
    "Said",
    "StateLost",
    "Update",
    "Weights",
]
