"""The endpoints of the Tinker API that the SDK calls, over our own trainer and sampler."""

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tinker.proto import tinker_public_pb2 as public

from tests.tinker_server import codec
from tests.tinker_server.futures import Answer, Futures, Protobuf
from tinsmith.aio import Suite, TinsmithError
from tinsmith.sampler.v1 import sampler_service_pb2 as sampler
from tinsmith.trainer import v1 as trainer
from tinsmith.types.v1 import LoraConfig

_KINDS = {"weights": "training", "sampler_weights": "sampler"}
Handler = Callable[[Request], Awaitable[Response]]


class TinkerApp:
    """One account with one base model."""

    def __init__(self, suite: Suite, *, base_model: str, context: int, api_key: str) -> None:
        self._suite, self._base_model, self._context, self._api_key = suite, base_model, context, api_key
        self._numbers = itertools.count(1)
        self._samplers: dict[str, sampler.ModelRef] = {}
        self._created: set[str] = set()
        self.futures = Futures()

    def starlette(self) -> Starlette:
        """The application."""
        posts: dict[str, Handler] = {
            "client/config": self._nothing,
            "client/dynamic_config": self._dynamic_config,
            "create_session": self._create_session,
            "session_heartbeat": self._nothing,
            "sessions/{session_id}/finish": self._nothing,
            "create_model": self._create_model,
            "get_info": self._get_info,
            "forward_backward": self._forward_backward,
            "optim_step": self._optim_step,
            "save_weights": self._save_weights,
            "save_weights_for_sampler": self._save_for_sampler,
            "load_weights": self._load_weights,
            "create_sampling_session": self._create_sampling_session,
            "asample": self._sample,
            "retrieve_future": self.futures.retrieve,
            "cancel_future": self.futures.cancel,
        }
        gets: dict[str, Handler] = {
            "get_server_capabilities": self._capabilities,
            "samplers/{sampler_id}": self._sampler,
        }
        routes = [Route(f"/api/v1/{path}", self._signed(handler), methods=["POST"]) for path, handler in posts.items()]
        routes += [Route(f"/api/v1/{path}", self._signed(handler)) for path, handler in gets.items()]
        return Starlette(routes=routes)

    def _signed(self, handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            if request.headers.get("x-api-key") != self._api_key:
                return JSONResponse({"detail": f"no account has the key {request.headers.get('x-api-key')}"}, 401)
            return await handler(request)

        return checked

    async def _nothing(self, request: Request) -> Response:
        return JSONResponse({})

    async def _dynamic_config(self, request: Request) -> Response:
        return JSONResponse({"sample_cancel_enabled": True})

    async def _create_session(self, request: Request) -> Response:
        return JSONResponse({"type": "create_session", "session_id": f"session-{next(self._numbers)}"})

    async def _capabilities(self, request: Request) -> Response:
        model = {"model_name": self._base_model, "max_context_length": self._context}
        return JSONResponse({"supported_models": [model]})

    async def _create_model(self, request: Request) -> Response:
        body = await request.json()
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        if body["base_model"] != self._base_model:
            return JSONResponse({"detail": f"no model {body['base_model']}"}, 404)
        lora = body["lora_config"]
        wanted = trainer.CreateModelRequest(
            request_id=model_id,
            model_id=model_id,
            base_model=self._base_model,
            lora=LoraConfig(
                rank=lora["rank"],
                seed=lora.get("seed", 0),
                train_attention=lora["train_attn"],
                train_mlp=lora["train_mlp"],
                train_unembedding=lora["train_unembed"],
            ),
        )

        async def create() -> Answer:
            await self._suite.trainer.CreateModel(wanted)
            return {"type": "create_model", "model_id": model_id}

        return self._submitted(model_id, create, model_id=model_id)

    async def _get_info(self, request: Request) -> Response:
        model_id = (await request.json())["model_id"]
        try:
            model = (await self._suite.trainer.GetModel(trainer.GetModelRequest(model_id=model_id))).model
        except TinsmithError as error:
            return JSONResponse({"detail": error.message}, 404)
        data = {"model_name": self._base_model}
        return JSONResponse({"model_id": model_id, "model_data": data, "lora_rank": model.lora.rank})

    async def _forward_backward(self, request: Request) -> Response:
        body = public.ForwardBackwardRequest.FromString(await request.body())
        try:
            loss, data = codec.loss_spec(body), codec.datum_list(body)
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 422)
        fields = {"model_id": body.model_id, "seq_id": body.seq_id, "loss": loss, "list": data}

        async def compute() -> Answer:
            if body.forward_only:
                answer: Any = await self._suite.trainer.Forward(trainer.ForwardRequest(**fields))
            else:
                answer = await self._suite.trainer.ForwardBackward(trainer.ForwardBackwardRequest(**fields))
            return Protobuf(codec.forward_output(answer))

        return self._submitted(f"{body.model_id}:{body.seq_id}", compute)

    async def _optim_step(self, request: Request) -> Response:
        body = await request.json()
        adam = trainer.AdamParams(**body["adam_params"])
        wanted = trainer.OptimStepRequest(model_id=body["model_id"], seq_id=body["seq_id"], adam=adam)

        async def step() -> Answer:
            return {"metrics": dict((await self._suite.trainer.OptimStep(wanted)).metrics), "type": "optim_step"}

        return self._submitted(f"{body['model_id']}:{body['seq_id']}", step)

    async def _save_weights(self, request: Request) -> Response:
        body = await request.json()
        wanted = trainer.SaveStateRequest(overwrite=body["overwrite"], **_saving(body))

        async def save() -> Answer:
            saved = (await self._suite.trainer.SaveState(wanted)).checkpoint
            return {"path": f"tinker://{saved.model_id}/weights/{saved.name}", "type": "save_weights"}

        return self._submitted(f"{body['model_id']}:{body['seq_id']}", save)

    async def _save_for_sampler(self, request: Request) -> Response:
        body = await request.json()
        wanted = trainer.SaveForSamplerRequest(**_saving(body))

        async def save() -> Answer:
            saved = (await self._suite.trainer.SaveForSampler(wanted)).checkpoint
            path = f"tinker://{saved.model_id}/sampler_weights/{saved.name}"
            return {"path": path, "type": "save_weights_for_sampler"}

        return self._submitted(f"{body['model_id']}:{body['seq_id']}", save)

    async def _load_weights(self, request: Request) -> Response:
        """A new model of stored weights."""
        body = await request.json()
        uri = _uri(body["path"])
        try:
            await self._suite.checkpoints.GetCheckpoint(trainer.GetCheckpointRequest(uri=uri))
        except TinsmithError as error:
            return JSONResponse({"detail": error.message}, 404)
        model_id = f"{body['session_id']}:train:{body['model_seq_id']}"
        wanted = trainer.CreateModelRequest(
            request_id=model_id, model_id=model_id, checkpoint_uri=uri, load_optimizer=body["optimizer"]
        )

        async def load() -> Answer:
            await self._suite.trainer.CreateModel(wanted)
            return {"type": "load_weights", "path": body["path"], "model_id": model_id}

        return self._submitted(model_id, load)

    async def _create_sampling_session(self, request: Request) -> Response:
        body = await request.json()
        sampler_id = f"{body['session_id']}:sample:{body['sampling_session_seq_id']}"
        if body.get("model_path"):
            self._samplers[sampler_id] = sampler.ModelRef(checkpoint_uri=_uri(body["model_path"]))
        else:
            self._samplers[sampler_id] = sampler.ModelRef(base_model=body["base_model"])
        return JSONResponse({"sampling_session_id": sampler_id})

    async def _sampler(self, request: Request) -> Response:
        answer = {"sampler_id": request.path_params["sampler_id"], "base_model": self._base_model}
        return JSONResponse(answer)

    async def _sample(self, request: Request) -> Response:
        body = await request.json()
        model = self._samplers[body["sampling_session_id"]]
        wanted = codec.sample_request(body, model)

        async def sample() -> Answer:
            answer = await self._suite.sampler.Sample(wanted)
            scored = None
            if body.get("target_prompt_logprobs"):
                sequences, targets = codec.targets(body)
                asked = sampler.ComputeLogprobsRequest(model=model, sequences=sequences, targets=targets)
                scored = (await self._suite.sampler.ComputeLogprobs(asked)).logprobs
            return Protobuf(codec.sample_output(answer, scored))

        request_id = f"{body['sampling_session_id']}:{body['seq_id']}"
        ids = [f"{request_id}:{number}" for number in range(body["num_samples"])]
        return self._submitted(request_id, sample, sample_sequence_ids=ids)

    def _submitted(self, request_id: str, work: Callable[[], Awaitable[Answer]], **extra: Any) -> Response:
        self.futures.submit(request_id, work)
        return JSONResponse({"request_id": request_id, **extra})


def _saving(body: dict[str, Any]) -> dict[str, Any]:
    ttl = {"ttl": Duration(seconds=body["ttl_seconds"])} if body.get("ttl_seconds") else {}
    return {"model_id": body["model_id"], "seq_id": body["seq_id"], "name": body["path"], **ttl}


def _uri(path: str) -> str:
    run, kind, name = path.removeprefix("tinker://").split("/")
    return f"tinsmith://{run}/{_KINDS[kind]}/{name}"
