"""Requests to models outside the Llama family: each is decoded in batches of its own, and they take turns.

The result is a function of the weights and the request, because matrix products round differently in batches of
different sizes and here a request never shares one. A job is a generator: each `next` is a bounded piece of work.
"""

from collections.abc import Generator

from tinsmith_server.sampler.drawing.answers import AnswerSheet
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.job import Emit
from tinsmith_server.sampler.local.decode import decode
from tinsmith_server.sampler.local.hugging_face import Overrides
from tinsmith_server.sampler.local.plan import BatchLimits, Distinct, decode_plans
from tinsmith_server.sampler.request import SampleRequest
from tinsmith_server.sampler.text import Text


def decode_alone(
    weights: Overrides, request: SampleRequest, prompts: Distinct, limits: BatchLimits, text: Text, emit: Emit | None
) -> Generator[None, None, AnswerSheet]:
    """Answers `request`, which has been checked (`validation.py`) and whose different prompts are `prompts`."""
    model = weights.model
    sheet = AnswerSheet(len(request.prompts) * request.num_samples)
    for plan in decode_plans(prompts, request.num_samples, limits):
        stops = StopMatcher(request.params, model.eos_ids, model.vocabulary, text.decode)
        for step in decode(weights, request, plan, stops):
            if step is not None:
                sheet.add(step)
                if emit is not None:
                    emit(step)
            yield
    return sheet
