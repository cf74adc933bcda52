"""The gRPC face of the orchestrator."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.orchestrator.v1 import orchestrator_service_pb2 as pb
from tinsmith.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from tinsmith_server.orchestrator.configuration import describe_recipe, recipe_name, recipe_names
from tinsmith_server.orchestrator.directory import Directory
from tinsmith_server.orchestrator.driving import Supervisor
from tinsmith_server.orchestrator.recipes import recipe_info
from tinsmith_server.orchestrator.starting import Starter, WantedRun
from tinsmith_server.orchestrator.store import Registry, RunFilter, Runs
from tinsmith_server.orchestrator.watching import watch
from tinsmith_server.serving import checks_request, visible_owner
from tinsmith_server.serving.errors import Unimplemented
from tinsmith_server.serving.validation import validate

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class OrchestratorService(pb_grpc.OrchestratorServiceServicer):
    """See `orchestrator_service.proto`."""

    def __init__(
        self,
        *,
        runs: Runs,
        registry: Registry,
        starter: Starter,
        supervisor: Supervisor,
        directory: Directory,
        watch_heartbeat_s: float,
    ) -> None:
        self._runs = runs
        self._registry = registry
        self._starter = starter
        self._supervisor = supervisor
        self._directory = directory
        self._watch_heartbeat_s = watch_heartbeat_s

    @checks_request
    async def StartRun(self, request: pb.StartRunRequest, context: "Context") -> pb.StartRunResponse:
        _check_all_but_config(request)
        wanted = WantedRun(
            request_id=request.request_id,
            recipe=request.recipe,
            config=request.config,
            overrides=dict(request.overrides),
            display_name=request.display_name,
            labels=dict(request.labels),
            tenant=visible_owner() or "",
        )
        run = await self._starter.start(wanted, dry_run=request.dry_run)
        self._supervisor.nudge()
        return pb.StartRunResponse(run=run)

    async def GetRun(self, request: pb.GetRunRequest, context: "Context") -> pb.GetRunResponse:
        await self._runs.check_owner(request.run_id, visible_owner())
        return pb.GetRunResponse(run=await self._runs.get(request.run_id))

    async def ListRuns(self, request: pb.ListRunsRequest, context: "Context") -> pb.ListRunsResponse:
        wanted = RunFilter(state=request.state, recipe=request.recipe, tenant=visible_owner())
        runs, token = await self._runs.list_page(wanted, request.page_size, request.page_token)
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def WatchRun(self, request: pb.WatchRunRequest, context: "Context") -> AsyncIterator[pb.WatchRunResponse]:
        await self._runs.check_owner(request.run_id, visible_owner())
        messages = watch(self._runs, request.run_id, request.after_seq, self._watch_heartbeat_s)
        async with aclosing(messages):
            async for message in messages:
                yield message

    async def CancelRun(self, request: pb.CancelRunRequest, context: "Context") -> pb.CancelRunResponse:
        await self._runs.check_owner(request.run_id, visible_owner())
        run = await self._runs.request_cancel(request.run_id)
        self._supervisor.cancel(request.run_id)
        return pb.CancelRunResponse(run=run)

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: "Context") -> pb.ResumeRunResponse:
        await self._runs.check_owner(request.run_id, visible_owner())
        run = await self._runs.resume(request.run_id)
        self._supervisor.nudge()
        return pb.ResumeRunResponse(run=run)

    async def ListRecipes(self, request: pb.ListRecipesRequest, context: "Context") -> pb.ListRecipesResponse:
        return pb.ListRecipesResponse(recipes=map(recipe_info, recipe_names()))

    async def DescribeRecipe(self, request: pb.DescribeRecipeRequest, context: "Context") -> pb.DescribeRecipeResponse:
        name = recipe_name(request.name)
        fields, defaults = describe_recipe(name)
        return pb.DescribeRecipeResponse(recipe=recipe_info(name), fields=fields, defaults=defaults)

    async def Evaluate(self, request: pb.EvaluateRequest, context: "Context") -> pb.EvaluateResponse:
        raise Unimplemented(
            "evaluation alone is not implemented yet; a run evaluates its own model every eval_every steps",
            reason="RECIPE_NOT_IMPLEMENTED",
            metadata={"recipe": "evaluation"},
        )

    async def RegisterService(
        self, request: pb.RegisterServiceRequest, context: "Context"
    ) -> pb.RegisterServiceResponse:
        entry = pb.ServiceEntry(name=request.name, kind=request.kind, address=request.address, registered=True)
        return pb.RegisterServiceResponse(service=await self._directory.register(entry, overwrite=request.overwrite))

    async def UnregisterService(
        self, request: pb.UnregisterServiceRequest, context: "Context"
    ) -> pb.UnregisterServiceResponse:
        return pb.UnregisterServiceResponse(removed=await self._registry.unregister_service(request.name))

    async def ListServices(self, request: pb.ListServicesRequest, context: "Context") -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=await self._directory.entries())

    async def ListModels(self, request: pb.ListModelsRequest, context: "Context") -> pb.ListModelsResponse:
        models, token = await self._registry.list_models(request.page_size, request.page_token, visible_owner())
        return pb.ListModelsResponse(models=models, next_page_token=token)

    async def GetLineage(self, request: pb.GetLineageRequest, context: "Context") -> pb.GetLineageResponse:
        return pb.GetLineageResponse(models=await self._registry.lineage(request.model_id, visible_owner()))


def _check_all_but_config(request: pb.StartRunRequest) -> None:
    """The configuration is checked when it is whole: an override may mend it, and its errors have their own reason."""
    rest = pb.StartRunRequest()
    rest.CopyFrom(request)
    rest.ClearField("config")
    validate(rest)
