"""How much an engine holds at most, and what a group takes of it."""

from dataclasses import dataclass

from tinsmith_server.sampler.engine.job import DecodeJob, Group
from tinsmith_server.sampler.engine.rack import SizeClass
from tinsmith_server.serving.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLimits:
    """How much an engine takes on at a time."""

    jobs: int
    """Requests that are decoded together."""
    rows: int
    """Answers that are decoded together."""
    kv_bytes: int
    """Keys and values of these answers, at their longest, and of prompts that are being read."""
    cache_bytes: int
    """Keys and values of sequences that were read lately."""
    prefill_tokens: int
    """Prompt tokens, padding included, that are read between two decoding steps."""
    stream_interval_s: float
    """A stream is told of new tokens at most so often, save for the first."""


class Budget:
    """Places for tokens in KV memory, taken for an answer's longest length when it starts."""

    def __init__(self, limits: EngineLimits, token_bytes: int) -> None:
        self.places = limits.kv_bytes // token_bytes
        self.taken = 0
        self._token_bytes = token_bytes

    def check(self, job: DecodeJob) -> None:
        """Raises InvalidArgument with reason KV_BUDGET_EXCEEDED when one answer of the job alone is too much."""
        prompt = max(len(group.tokens) for group in job.groups)
        needed = prompt + SizeClass.of(rows=1, prompt=prompt, new_tokens=job.limit(prompt)).tokens(1)
        if needed > self.places:
            raise InvalidArgument(
                f"an answer of {job.limit(prompt)} tokens to a prompt of {prompt} needs {needed} places in KV memory, "
                f"this sampler has {self.places}; ask for fewer tokens, or raise the setting kv_bytes",
                reason="KV_BUDGET_EXCEEDED",
                metadata={"needed": str(needed), "places": str(self.places)},
                violations=[("params.max_tokens", "needs more KV memory than there is")],
            )

    def of_group(self, group: Group, size: SizeClass, *, rows: int) -> int:
        """Places of `rows` answers of a group, and of its prompt while it is read."""
        return len(group.tokens) + size.tokens(rows)

    def fitting(self, job: DecodeJob, group: Group, most: int) -> int:
        """How many of the group's answers there is room for, `most` at most; one where nothing else is held.

        That one may need a little more than there is: what had been drawn when it was put back is read with its prompt.
        """
        rows = min(len(group.answers), most)
        while rows > (not self.taken):
            size = size_of(job, group, rows=rows)
            if self.taken + self.of_group(group, size, rows=rows) <= self.places:
                break
            rows //= 2
        return rows


def size_of(job: DecodeJob, group: Group, *, rows: int) -> SizeClass:
    """The size class of a group of which `rows` answers start."""
    prompt = len(group.tokens)
    drawn = 0 if group.interrupted is None else len(group.interrupted.tokens)
    return SizeClass.of(rows=rows, prompt=prompt, new_tokens=job.limit(prompt - drawn) - drawn)
