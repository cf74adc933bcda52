"""The gRPC face of the environments."""

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.environment.v1 import environment_service_pb2 as pb
from tinsmith.environment.v1 import environment_service_pb2_grpc as pb_grpc
from tinsmith_server.environment import wire
from tinsmith_server.environment.catalogue import not_served, summaries
from tinsmith_server.environment.episodes import Episodes
from tinsmith_server.environment.family import Family
from tinsmith_server.environment.once import AnswersOnce
from tinsmith_server.environment.stepping import step
from tinsmith_server.serving import visible_owner
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.serving.paging import page

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class EnvironmentService(pb_grpc.EnvironmentServiceServicer):
    """See `environment_service.proto`."""

    def __init__(self, families: Mapping[str, Family], episodes: Episodes, *, remembered_calls: int) -> None:
        """`families` by their field of EnvironmentSpec."""
        self._families = families
        self._episodes = episodes
        self._creations = AnswersOnce(remembered_calls)
        self._steps = AnswersOnce(remembered_calls)

    async def ListEnvironments(
        self, request: pb.ListEnvironmentsRequest, context: "Context"
    ) -> pb.ListEnvironmentsResponse:
        every = summaries(self._families.values())
        wanted = [summary for summary in every if request.family in ("", summary.family)]
        found, next_page_token = page(
            wanted,
            lambda summary: (summary.name,),
            request.page_size,
            request.page_token,
            default_size=100,
            largest=1000,
        )
        return pb.ListEnvironmentsResponse(
            environments=map(wire.environment_info, found), next_page_token=next_page_token
        )

    async def CreateEpisodes(self, request: pb.CreateEpisodesRequest, context: "Context") -> pb.CreateEpisodesResponse:
        return await self._creations.answer(_of_caller(request.request_id), lambda: self._create(request))

    async def Step(self, request: pb.StepRequest, context: "Context") -> pb.StepResponse:
        return await self._steps.answer(_of_caller(request.request_id), lambda: self._step(request))

    async def Play(
        self, request_iterator: AsyncIterator[pb.PlayRequest], context: "Context"
    ) -> AsyncIterator[pb.PlayResponse]:
        own: list[str] = []
        try:
            async for request in request_iterator:
                if request.WhichOneof("message") == "create":
                    created = await self.CreateEpisodes(request.create, context)
                    own += (episode_id for group in created.groups for episode_id in group.episode_ids)
                    yield pb.PlayResponse(created=created)
                else:
                    yield pb.PlayResponse(stepped=await self.Step(request.step, context))
        finally:
            self._episodes.close(own)

    async def Observe(self, request: pb.ObserveRequest, context: "Context") -> pb.ObserveResponse:
        seen = self._episodes.observe(request.episode_id)
        return pb.ObserveResponse(done=True) if seen is None else pb.ObserveResponse(observation=wire.observation(seen))

    async def CloseEpisodes(self, request: pb.CloseEpisodesRequest, context: "Context") -> pb.CloseEpisodesResponse:
        return pb.CloseEpisodesResponse(closed=self._episodes.close(request.episode_ids))

    async def _create(self, request: pb.CreateEpisodesRequest) -> pb.CreateEpisodesResponse:
        field, setup = wire.setup(request.environment)
        limits, groups = wire.limits(request.environment.limits), wire.groups(request.groups)
        self._episodes.make_room(sum(group.size for group in groups))
        family = self._family(field, request.environment)
        starts = await family.begin(setup, groups)
        # Beginning may have waited; others may have begun meanwhile.
        self._episodes.make_room(sum(group.size for group in groups))
        return wire.create_response(starts, self._episodes.add(family, starts, limits))

    async def _step(self, request: pb.StepRequest) -> pb.StepResponse:
        actions = wire.actions(request.actions)
        return wire.step_response(actions, await step(self._episodes, actions))

    def _family(self, field: str, spec: pb.EnvironmentSpec) -> Family:
        if field in self._families:
            return self._families[field]
        if field == "named":
            raise NotFound(
                f"there is no environment named {spec.named.name!r}; ListEnvironments lists what there is",
                reason="ENVIRONMENT_NOT_FOUND",
                metadata={"environment": spec.named.name},
            )
        raise not_served(field)


def _of_caller(request_id: str) -> str:
    """The key under which a repeat finds the first answer, of the same tenant; empty when the caller gave no id."""
    return f"{visible_owner() or ''} {request_id}" if request_id else ""
