"""All services that a recipe may use, for one attempt at one run."""

from collections.abc import Callable

from tinsmith.aio import Suite
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.dataset import Dataset
from tinsmith_server.orchestrator.peers.environment import Environment
from tinsmith_server.orchestrator.peers.renderer import Renderer
from tinsmith_server.orchestrator.peers.sampler import Sampler
from tinsmith_server.orchestrator.peers.trainer import Trainer


class Peers:
    """`request_id` turns the name of a call within the attempt into the id under which it may be repeated."""

    def __init__(self, suite: Suite, call: Caller, request_id: Callable[[str], str]) -> None:
        self.trainer = Trainer(suite, call)
        self.sampler = Sampler(suite, call)
        self.dataset = Dataset(suite, call)
        self.renderer = Renderer(suite, call)
        self.environment = Environment(suite, call, request_id)
