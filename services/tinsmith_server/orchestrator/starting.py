"""Starts runs: everything that can be known to be wrong is said before."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from tinsmith.aio import Suite
from tinsmith.orchestrator.v1 import RecipeConfig, Run, RunState
from tinsmith_server.orchestrator.configuration import bad_config, complete_config, total_steps
from tinsmith_server.orchestrator.health import health_of
from tinsmith_server.orchestrator.peers import Caller, CallFailed, Peers, StateLost
from tinsmith_server.orchestrator.recipes import RECIPES, Recipe
from tinsmith_server.orchestrator.store import NewRun, Runs
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, Unimplemented

_PROBE_S = 20.0
_PROBE_PATIENCE_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedRun:
    """A run that a caller wants."""

    request_id: str
    recipe: str
    config: RecipeConfig
    overrides: Mapping[str, str]
    display_name: str
    labels: Mapping[str, str]
    tenant: str
    """Who wants it; empty where there are no API keys."""


class Starter:
    """Checks and stores runs."""

    def __init__(self, suite: Suite, runs: Runs, addresses: Mapping[str, str]) -> None:
        self._suite = suite
        self._runs = runs
        self._addresses = addresses

    async def start(self, wanted: WantedRun, *, dry_run: bool) -> Run:
        """The run, stored unless it is a dry run; one that was started with this request_id before stays as it was.

        NotFound with reason RECIPE_NOT_FOUND; InvalidArgument with reason BAD_CONFIG; Unimplemented with reason
        RECIPE_NOT_IMPLEMENTED; FailedPrecondition with reason SERVICE_UNAVAILABLE; what a service says of the
        configuration, as that service says it.
        """
        earlier = await self._runs.find_request(wanted.request_id, wanted.tenant) if wanted.request_id else None
        if earlier is not None:
            return earlier
        name, config = complete_config(wanted.recipe, wanted.config, wanted.overrides)
        recipe = _available(name)
        violations = recipe.check(getattr(config, name))
        if violations:
            raise bad_config(name, violations)
        await self._check_services(name, recipe.needs)
        await self._probe(recipe, getattr(config, name))
        new = NewRun(
            run_id=f"run-{uuid4().hex[:16]}",
            request_id=wanted.request_id,
            recipe=name,
            config=config,
            total_steps=total_steps(config),
            display_name=wanted.display_name,
            labels=wanted.labels,
            tenant=wanted.tenant,
        )
        return _as_it_would_be(new) if dry_run else await self._runs.create(new)

    async def _check_services(self, recipe: str, needs: Sequence[str]) -> None:
        wrong = await health_of({name: self._addresses[name] for name in needs})
        away = {name: problem for name, problem in wrong.items() if problem}
        if away:
            said = ", ".join(f"{name} at {self._addresses[name]} {problem}" for name, problem in away.items())
            raise FailedPrecondition(
                f"{recipe} needs services that are not there: {said}; start them (`tinsmith up` starts all) or set "
                "their addresses",
                reason="SERVICE_UNAVAILABLE",
                metadata={"services": ",".join(away)},
            )

    async def _probe(self, recipe: Recipe, config: object) -> None:
        call = Caller(patience_s=_PROBE_PATIENCE_S, timeout_s=_PROBE_S, cancelled=asyncio.Event())
        try:
            await recipe.probe(config, Peers(self._suite, call, lambda name: str(uuid4())))
        except CallFailed as failure:
            if isinstance(failure, StateLost) and failure.error.reason == "DEADLINE_EXCEEDED":
                return  # not a cheap question after all, for example a dataset that is being downloaded
            if failure.__cause__ is not None:
                raise failure.__cause__ from None
            raise InvalidArgument(failure.error.message, reason=failure.error.reason) from None


def _available(name: str) -> Recipe:
    if name not in RECIPES:
        raise Unimplemented(
            f"the recipe {name} is not implemented yet; this server runs {', '.join(RECIPES)}",
            reason="RECIPE_NOT_IMPLEMENTED",
            metadata={"recipe": name},
        )
    return RECIPES[name]


def _as_it_would_be(new: NewRun) -> Run:
    return Run(
        recipe=new.recipe,
        config=new.config,
        state=RunState.RUN_STATE_PENDING,
        total_steps=new.total_steps,
        display_name=new.display_name,
        labels=new.labels,
    )
