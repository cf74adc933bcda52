"""Stand-ins for the services that a run uses: real servers with the contract's promises about order, repetition and
loss, and arithmetic that a test can check.

The trainer's "adapter" is a chain of hashes over the calls that it applied: it comes out equal only when the same calls
were applied in the same order, each once. What is sampled depends on that chain, so a slip anywhere changes everything
after it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from tinsmith.arrays import flat_and_offsets, ragged, ragged_of, rows
from tinsmith.dataset.v1 import (
    Batch,
    DatasetInfo,
    DatasetServiceServicer,
    DescribeDatasetResponse,
    GetBatchResponse,
    ListDatasetsResponse,
    add_DatasetServiceServicer_to_server,
)
from tinsmith.environment.v1 import (
    CreateEpisodesResponse,
    EnvironmentServiceServicer,
    EpisodeEnd,
    EpisodeGroup,
    Observation,
    StepResponse,
    StepResult,
    add_EnvironmentServiceServicer_to_server,
)
from tinsmith.renderer.v1 import (
    ParsedResponse,
    ParseResponsesResponse,
    RendererServiceServicer,
    RenderPromptsResponse,
    add_RendererServiceServicer_to_server,
)
from tinsmith.sampler.v1 import (
    ListModelsResponse,
    SampleResponse,
    SamplerServiceServicer,
    add_SamplerServiceServicer_to_server,
)
from tinsmith.trainer.v1 import (
    Checkpoint,
    CheckpointFile,
    CheckpointServiceServicer,
    CreateModelResponse,
    DeleteModelResponse,
    ForwardBackwardResponse,
    GetCapabilitiesResponse,
    GetCheckpointResponse,
    Model,
    OptimStepResponse,
    SaveForSamplerResponse,
    SaveStateResponse,
    TrainerServiceServicer,
    add_CheckpointServiceServicer_to_server,
    add_TrainerServiceServicer_to_server,
)
from tinsmith.types.v1 import BaseModelInfo, Message, Problem, Row, StopCondition, StopReason, Termination
from tinsmith_server.serving import RoomDefinition, RoomSettings
from tinsmith_server.serving.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    Unavailable,
)

BASE_MODEL = "tinsmith-tiny"
GAP_S = 20.0
"""How long a call that came early waits for those before it."""
DATASETS = ("arithmetic",)


def digest(*parts: bytes | str) -> str:
    return sha256(b"|".join(part.encode() if isinstance(part, str) else part for part in parts)).hexdigest()


@dataclass
class Faults:
    """What goes wrong, and when: (method, how manyth call of it from 1) -> what happens there."""

    planned: dict[tuple[str, int], str] = field(default_factory=dict)
    """"away": refused before it does anything; "answer lost": done, but the caller hears UNAVAILABLE; "crash": the
    process loses its memory before, and the caller hears UNAVAILABLE; or the name of an error of `errors`."""
    errors: dict[str, Exception] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    slow: dict[str, float] = field(default_factory=dict)
    """Method -> seconds that it takes."""

    async def around(self, method: str, crash: Callable[[], Awaitable[None]], work: Callable[[], Any]) -> Any:
        self.calls[method] += 1
        await asyncio.sleep(self.slow.get(method, 0))
        fault = self.planned.pop((method, self.calls[method]), "")
        if fault == "crash":
            await crash()
        if fault in ("crash", "away"):
            raise Unavailable(f"{method} is away", reason="AWAY")
        if fault in self.errors:
            raise self.errors[fault]
        answer = work()
        answer = await answer if asyncio.iscoroutine(answer) else answer
        if fault == "answer lost":
            raise Unavailable(f"the answer of {method} was lost", reason="ANSWER_LOST")
        return answer


async def _nothing() -> None:
    """What a process without memory loses."""


@dataclass
class FakeModel:
    base_model: str
    adapter: str
    optimizer: str = ""
    step: int = 0
    gradient: str = ""
    answers: dict[int, Any] = field(default_factory=dict)


class FakeTrainer(TrainerServiceServicer, CheckpointServiceServicer):
    def __init__(self, faults: Faults, root: Path) -> None:
        self.faults = faults
        self.root = root
        self.models: dict[str, FakeModel] = {}
        self.created: dict[str, Any] = {}
        self.applied = asyncio.Condition()

    async def crash(self) -> None:
        self.models, self.created = {}, {}
        async with self.applied:
            self.applied.notify_all()

    async def GetCapabilities(self, request: Any, context: Any) -> Any:
        return GetCapabilitiesResponse(base_models=[BaseModelInfo(name=BASE_MODEL)])

    async def GetCheckpoint(self, request: Any, context: Any) -> Any:
        self._read(request.uri)
        return GetCheckpointResponse(checkpoint=Checkpoint(uri=request.uri))

    async def CreateModel(self, request: Any, context: Any) -> Any:
        return await self.faults.around("CreateModel", self.crash, lambda: self._create(request))

    def _create(self, request: Any) -> Any:
        if request.request_id in self.created:
            return self.created[request.request_id]
        if request.model_id in self.models:
            raise AlreadyExists("there is such a model", reason="MODEL_EXISTS")
        if request.checkpoint_uri:
            stored = self._read(request.checkpoint_uri)
            model = FakeModel(base_model=stored["base_model"], adapter=stored["adapter"])
            if request.load_optimizer:
                model.optimizer, model.step = stored["optimizer"], stored["step"]
        else:
            model = FakeModel(base_model=request.base_model, adapter=digest("fresh", str(request.lora.seed)))
        self.models[request.model_id] = model
        answer = CreateModelResponse(model=Model(model_id=request.model_id))
        self.created[request.request_id] = answer
        return answer

    async def DeleteModel(self, request: Any, context: Any) -> Any:
        return DeleteModelResponse(deleted=self.models.pop(request.model_id, None) is not None)

    async def ForwardBackward(self, request: Any, context: Any) -> Any:
        return await self._ordered("ForwardBackward", request, self._accumulate)

    async def OptimStep(self, request: Any, context: Any) -> Any:
        return await self._ordered("OptimStep", request, self._step)

    async def SaveState(self, request: Any, context: Any) -> Any:
        return await self._ordered("SaveState", request, self._save_state)

    async def SaveForSampler(self, request: Any, context: Any) -> Any:
        return await self._ordered("SaveForSampler", request, self._save_for_sampler)

    async def _ordered(self, method: str, request: Any, work: Callable[[FakeModel, Any], Any]) -> Any:
        return await self.faults.around(method, self.crash, lambda: self._in_order(request, work))

    async def _in_order(self, request: Any, work: Callable[[FakeModel, Any], Any]) -> Any:
        async with self.applied:
            try:
                async with asyncio.timeout(GAP_S):
                    await self.applied.wait_for(lambda: self._is_due(request))
            except TimeoutError:
                raise Aborted("a call is missing", reason="SEQUENCE_GAP") from None
            model = self._model(request.model_id)
            if request.seq_id not in model.answers:
                try:
                    model.answers[request.seq_id] = work(model, request)
                except Exception as error:
                    model.answers[request.seq_id] = error
                self.applied.notify_all()
            answer = model.answers[request.seq_id]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _is_due(self, request: Any) -> bool:
        model = self.models.get(request.model_id)
        return model is None or request.seq_id == 1 or request.seq_id - 1 in model.answers

    def _model(self, model_id: str) -> FakeModel:
        if model_id not in self.models:
            raise NotFound(f"no model {model_id}", reason="MODEL_NOT_FOUND")
        return self.models[model_id]

    def _accumulate(self, model: FakeModel, request: Any) -> Any:
        batch, loss = request.batch, request.loss.WhichOneof("loss")
        columns = [(name, batch.loss_inputs[name].ragged) for name in sorted(batch.loss_inputs)]
        parts = [part for name, column in columns for part in (name.encode(), column.offsets, column.data)]
        model.gradient = digest(model.gradient, model.adapter, loss, batch.tokens.offsets, batch.tokens.data, *parts)
        flat, offsets = flat_and_offsets(batch.tokens)
        logprobs = ragged_of(np.full(len(flat), -1.0, np.float32), offsets)
        return ForwardBackwardResponse(logprobs=logprobs, metrics={"loss:sum": -1.0})

    def _step(self, model: FakeModel, request: Any) -> Any:
        if not model.gradient:
            raise FailedPrecondition("no gradients", reason="NO_GRADIENTS")
        model.optimizer = digest(model.optimizer, model.gradient)
        model.adapter = digest(model.adapter, model.optimizer, str(request.adam.learning_rate))
        model.gradient, model.step = "", model.step + 1
        return OptimStepResponse(step=model.step, metrics={"grad_norm:mean": 1.0})

    def _save_state(self, model: FakeModel, request: Any) -> Any:
        return SaveStateResponse(checkpoint=self._write(model, request, "training"))

    def _save_for_sampler(self, model: FakeModel, request: Any) -> Any:
        return SaveForSamplerResponse(checkpoint=self._write(model, request, "sampler"))

    def _write(self, model: FakeModel, request: Any, kind: str) -> Any:
        name = request.name or f"ephemeral-{request.seq_id}"
        path = self.root / request.model_id / kind / f"{name}.json"
        if path.exists() and not request.overwrite:
            raise AlreadyExists("there is such a checkpoint", reason="CHECKPOINT_EXISTS")
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"base_model": model.base_model, "adapter": model.adapter, "step": model.step}
        path.write_text(json.dumps(content | {"optimizer": model.optimizer}))
        file = CheckpointFile(name="adapter_model.safetensors", sha256=model.adapter)
        uri = f"tinsmith://{request.model_id}/{kind}/{name}"
        return Checkpoint(uri=uri, model_id=request.model_id, name=name, step=model.step, files=[file])

    def path_of(self, uri: str) -> Path:
        return self.root / (uri.removeprefix("tinsmith://") + ".json")

    def _read(self, uri: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path_of(uri).read_text())
        except FileNotFoundError:
            raise NotFound(f"no checkpoint {uri}", reason="CHECKPOINT_NOT_FOUND") from None
        except json.JSONDecodeError:
            raise DataLoss(f"checkpoint {uri} is damaged", reason="CHECKPOINT_CORRUPT") from None
        return content


class FakeSampler(SamplerServiceServicer):
    """Tokens 0 to 9, drawn from (weights, seed, number of the answer)."""

    def __init__(self, faults: Faults, trainer: FakeTrainer) -> None:
        self.faults = faults
        self.trainer = trainer
        self.requests: list[Any] = []

    async def ListModels(self, request: Any, context: Any) -> Any:
        return ListModelsResponse(models=[BaseModelInfo(name=BASE_MODEL)])

    async def Sample(self, request: Any, context: Any) -> Any:
        return await self.faults.around("Sample", _nothing, lambda: self._sample(request))

    def _sample(self, request: Any) -> Any:
        self.requests.append(request)
        adapter = self.trainer._read(request.model.checkpoint_uri)["adapter"]
        tokens, logprobs, reasons = [], [], []
        for prompt, seed in zip(rows(request.prompts), request.seeds, strict=True):
            for number in range(request.num_samples):
                drawn = digest(adapter, prompt.tobytes(), str(seed), str(number))
                generator = np.random.default_rng(int(drawn[:12], 16))
                length = int(generator.integers(1, request.params.max_tokens + 1))
                tokens.append(generator.integers(0, 10, length))
                logprobs.append(-generator.random(length))
                reasons.append(StopReason.STOP_REASON_STOP if length < 5 else StopReason.STOP_REASON_LENGTH)
        return SampleResponse(
            tokens=ragged(tokens, np.int32), logprobs=ragged(logprobs, np.float32), stop_reasons=reasons
        )


class FakeData(DatasetServiceServicer, RendererServiceServicer):
    """Numbered problems; a prompt is its text's bytes, an answer its tokens as digits."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.batches: list[Any] = []

    async def ListDatasets(self, request: Any, context: Any) -> Any:
        return ListDatasetsResponse(datasets=[DatasetInfo(name=name, options={"seed": "0"}) for name in DATASETS])

    async def DescribeDataset(self, request: Any, context: Any) -> Any:
        return DescribeDatasetResponse(rows=1000, fingerprint=digest(request.dataset.SerializeToString()))

    async def GetBatch(self, request: Any, context: Any) -> Any:
        return await self.faults.around("GetBatch", _nothing, lambda: self._batch(request))

    def _batch(self, request: Any) -> Any:
        name = request.dataset.catalogue.name
        if request.dataset.HasField("catalogue") and name not in DATASETS:
            raise NotFound(f"no dataset {name!r}; there are {', '.join(DATASETS)}", reason="DATASET_NOT_FOUND")
        self.batches.append(request)
        size, number = request.batching.batch_size, request.cursor.batch
        ids = range(number * size, (number + 1) * size)
        takes = [operation.take.count for operation in request.dataset.operations if operation.HasField("take")]
        ids = [id for id in ids if not takes or id < min(takes)]
        if not ids:
            raise OutOfRange("behind the last batch", reason="END_OF_DATA")
        return GetBatchResponse(batch=Batch(rows=[Row(problem=self._problem(id)) for id in ids], index=number))

    @staticmethod
    def _problem(id: int) -> Any:
        return Problem(id=str(id), messages=[Message(role="user", content=f"problem {id}?")], answer=str(id % 3))

    async def RenderPrompts(self, request: Any, context: Any) -> Any:
        if request.renderer not in ("", "chat_template"):
            raise NotFound(f"no renderer {request.renderer!r}", reason="RENDERER_NOT_FOUND")
        texts = [conversation.messages[-1].content.encode() for conversation in request.conversations]
        tokens = ragged([np.frombuffer(text, np.uint8) for text in texts], np.int32)
        return RenderPromptsResponse(tokens=tokens, stop=StopCondition(strings=["\n"]))

    async def ParseResponses(self, request: Any, context: Any) -> Any:
        said = [" ".join(map(str, row)) for row in rows(request.tokens)]
        return ParseResponsesResponse(
            responses=[
                ParsedResponse(
                    message=Message(role="assistant", content=text), termination=Termination.TERMINATION_STOP_SEQUENCE
                )
                for text in said
            ]
        )


class FakeEnvironment(EnvironmentServiceServicer):
    """An answer is correct when the sum of its digits leaves the reference as remainder of a division by three."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.episodes: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.constant = False
        self.failing: set[int] = set()
        """Places in a step whose episodes fail."""

    async def crash(self) -> None:
        self.episodes, self.answers = {}, {}

    async def CreateEpisodes(self, request: Any, context: Any) -> Any:
        return await self.faults.around("CreateEpisodes", self.crash, lambda: self._once(request, self._begin))

    async def Step(self, request: Any, context: Any) -> Any:
        return await self.faults.around("Step", self.crash, lambda: self._once(request, self._act))

    def _once(self, request: Any, work: Callable[[Any], Any]) -> Any:
        if request.request_id not in self.answers:
            self.answers[request.request_id] = work(request)
        return self.answers[request.request_id]

    def _begin(self, request: Any) -> Any:
        groups = []
        for number, group in enumerate(request.groups):
            ids = [f"{request.request_id}/{number}/{member}" for member in range(group.size)]
            self.episodes |= dict.fromkeys(ids, group.problem)
            groups.append(EpisodeGroup(episode_ids=ids, observation=Observation(messages=group.problem.messages)))
        return CreateEpisodesResponse(groups=groups)

    def _act(self, request: Any) -> Any:
        return StepResponse(results=[self._result(place, action) for place, action in enumerate(request.actions)])

    def _result(self, place: int, action: Any) -> Any:
        problem = self.episodes.pop(action.episode_id, None)
        if problem is None:
            return StepResult(error_reason="EPISODE_NOT_FOUND", error_message="there is no such episode")
        if place in self.failing:
            return StepResult(episode_id=action.episode_id, done=True, end=EpisodeEnd.EPISODE_END_FAILED)
        total = sum(map(int, action.message.content.split()))
        correct = 1.0 if self.constant else float(total % 3 == int(problem.answer))
        return StepResult(
            episode_id=action.episode_id,
            rewards=[correct],
            done=True,
            end=EpisodeEnd.EPISODE_END_COMPLETED,
            metrics={"correct": correct, "format": 1.0},
        )


class Fakes:
    """All of them as one room."""

    def __init__(self, root: Path) -> None:
        self.faults = Faults()
        self.trainer = FakeTrainer(self.faults, root)
        self.sampler = FakeSampler(self.faults, self.trainer)
        self.data = FakeData(self.faults)
        self.environment = FakeEnvironment(self.faults)

    def register(self, server: grpc.aio.Server) -> None:
        add_TrainerServiceServicer_to_server(self.trainer, server)
        add_CheckpointServiceServicer_to_server(self.trainer, server)
        add_SamplerServiceServicer_to_server(self.sampler, server)
        add_DatasetServiceServicer_to_server(self.data, server)
        add_RendererServiceServicer_to_server(self.data, server)
        add_EnvironmentServiceServicer_to_server(self.environment, server)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def room(self) -> RoomDefinition:
        return RoomDefinition(
            name="fakes", default_port=0, settings=RoomSettings, services=(), open=lambda settings: self
        )
