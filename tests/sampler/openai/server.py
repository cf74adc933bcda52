"""A server that speaks vLLM's dialect, over a real model: `transformers` computes, PEFT adapts.

It imitates vLLM 0.32 as far as the backend uses it, down to the words of its errors; set TINSMITH_TEST_VLLM_URL and
TINSMITH_TEST_VLLM_MODEL to run the same tests against the real thing. It runs in the test's own event loop.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

KEY = "sesame-7731"
Body = Mapping[str, Any]


class Refusal(Exception):
    """An answer that is an error, in vLLM's form."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        kind = {404: "NotFoundError", 500: "InternalServerError"}.get(status, "BadRequestError")
        error = {"message": message, "type": kind, "param": param, "code": status}
        self.response = JSONResponse({"error": error}, status)


@dataclass(kw_only=True)
class ModelServer:
    """One server; its counters and switches are for tests to read and to turn."""

    directory: Path
    owner: str = "vllm"
    """"vllm", "sglang" or anything else: who owns the models."""
    processed: bool = True
    """vLLM's --logprobs-mode processed_logprobs; else raw_logprobs, its default."""
    max_logprobs: int = 20
    max_loras: int = 8
    url: str = ""
    bodies: list[Body] = field(default_factory=list)
    """Of all /completions."""
    headers: list[Mapping[str, str]] = field(default_factory=list)
    adapters: dict[str, Any] = field(default_factory=dict)
    loads: int = 0
    steps: int = 0
    """Tokens drawn."""
    step_s: float = 0.0
    """Added to each step of a stream."""

    def __post_init__(self) -> None:
        self.model, self.tokenizer = _loaded(self.directory)
        self.context = self.model.config.max_position_embeddings

    def app(self) -> Starlette:
        """The routes; SGLang has those of adapters outside of /v1."""
        folder = "" if self.owner == "sglang" else "/v1"
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route(f"{folder}/load_lora_adapter", self._load, methods=["POST"]),
                Route(f"{folder}/unload_lora_adapter", self._unload, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        base = {"id": "served-random", "owned_by": self.owner, "root": str(self.directory), "parent": None}
        adapters = [{"id": name, "owned_by": self.owner, "parent": "served-random"} for name in self.adapters]
        return JSONResponse({"object": "list", "data": [{**base, "max_model_len": self.context}, *adapters]})

    async def _completions(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        body = await request.json()
        self.bodies.append(body)
        try:
            run = Run(self, body)
        except Refusal as refusal:
            return refusal.response
        if body.get("stream"):
            return StreamingResponse(run.events(), media_type="text/event-stream")
        return JSONResponse(await run.answer())

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return Refusal(400, f"The lora adapter '{body['lora_name']}' has already been loaded.").response
        if len(self.adapters) >= self.max_loras:
            return Refusal(500, "no room for another adapter").response
        if not await asyncio.to_thread(Path(body["lora_path"]).is_dir):
            return Refusal(
                404, f"Loading lora {body['lora_name']} failed: No adapter found for {body['lora_path']}"
            ).response
        base = AutoModelForCausalLM.from_pretrained(self.directory)
        self.adapters[body["lora_name"]] = peft.PeftModel.from_pretrained(base, body["lora_path"]).eval()
        self.loads += 1
        return PlainTextResponse("Success")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if self.adapters.pop(name, None) is None:
            return Refusal(404, f"The lora adapter '{name}' cannot be found.").response
        return PlainTextResponse("Success")

    def weights(self, name: str) -> Any:
        """The model that a request names."""
        name = name.removeprefix("served-random:") if self.owner == "sglang" else name
        if name == "served-random":
            return self.model
        if name not in self.adapters:
            raise Refusal(404, f"The model `{name}` does not exist.", param="model")
        return self.adapters[name]


@cache
def _loaded(directory: Path) -> tuple[Any, Any]:
    """Model and tokenizer, which no server changes."""
    return AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)


class Run:
    """One request to /completions."""

    def __init__(self, server: ModelServer, body: Body) -> None:
        self.server, self.body = server, body
        self.model = server.weights(body["model"])
        self.prompt: list[int] = body["prompt"]
        self.greedy = body.get("temperature", 1) == 0
        self.top = body.get("logprobs")
        self.count = body.get("n", 1)
        self._check()
        self.answers = [Answer(self, number) for number in range(self.count)]

    def _check(self) -> None:
        context, length = self.server.context, len(self.prompt)
        if length >= context:
            raise Refusal(
                400,
                f"This model's maximum context length is {context} tokens. However, your prompt contains {length}.",
            )
        if length + self.body["max_tokens"] > context:
            raise Refusal(400, f"max_tokens={self.body['max_tokens']} cannot be greater than what is left.")
        if self.greedy and self.count > 1:
            raise Refusal(400, f"n must be 1 when using greedy sampling, got {self.count}.")
        asked = max(self.top or 0, self.body.get("prompt_logprobs") or 0)
        if asked > self.server.max_logprobs:
            raise Refusal(
                400,
                f"Requested sample logprobs of {asked}, which is greater than max allowed: {self.server.max_logprobs}",
            )
        for penalty in ("frequency_penalty", "presence_penalty"):
            if not -2 <= (self.body.get(penalty) or 0) <= 2:
                raise Refusal(400, f"{penalty} must be in [-2, 2], got {self.body[penalty]}.")

    async def answer(self) -> Body:
        """The whole answer."""
        for answer in self.answers:
            while answer.finish is None:
                answer.step()
                await asyncio.sleep(0)
        choices = [answer.choice(0) | self._of_prompt(answer.number) for answer in self.answers]
        return {"id": "cmpl-1", "object": "text_completion", "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncIterator[str]:
        """One event a token; answers take turns."""
        while going := [answer for answer in self.answers if answer.finish is None]:
            for answer in going:
                answer.step()
                yield f"data: {json.dumps({'choices': [answer.choice(len(answer.tokens) - 1)]})}\n\n"
                await asyncio.sleep(self.server.step_s)
        yield f"data: {json.dumps({'choices': [], 'usage': self._usage()})}\n\n"
        yield "data: [DONE]\n\n"

    def _usage(self) -> Body:
        drawn = sum(len(answer.tokens) for answer in self.answers)
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": drawn,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def _of_prompt(self, number: int) -> Body:
        top = self.body.get("prompt_logprobs")
        if top is None:
            return {}
        places = [self.named(row, token, top) for row, token in self.scored_prompt()]
        told = [{str(token): {"logprob": value} for token, value in place.items()} for place in places]
        return {"prompt_logprobs": [None, *told]}

    def scored_prompt(self) -> list[tuple[Tensor, int]]:
        """Logprobs of the vocabulary before each token of the prompt but the first."""
        with torch.inference_mode():
            logprobs = self.model(torch.tensor([self.prompt])).logits[0].log_softmax(-1)
        return list(zip(logprobs[:-1], self.prompt[1:], strict=True))

    @staticmethod
    def named(logprobs_V: Tensor, token: int, top: int) -> dict[int, float]:
        """The token and the likeliest ones, by id."""
        best = logprobs_V.topk(top) if top else None
        likeliest = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else {}
        return {token: logprobs_V[token].item()} | likeliest


class Answer:
    """One answer while it is drawn."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number, self.body = run, number, run.body
        self.generator = torch.Generator().manual_seed((run.body.get("seed") or 0) + number)
        self.tokens: list[int] = []
        self.tops: list[dict[int, float]] = []
        self.finish: str | None = None
        self.found: int | str | None = None
        self.cache: Any = None

    def step(self) -> None:
        """Draws one token."""
        self.run.server.steps += 1
        ids = [self.tokens[-1]] if self.tokens else self.run.prompt
        with torch.inference_mode():
            out = self.run.model(torch.tensor([ids]), past_key_values=self.cache, use_cache=True)
        self.cache, logits_V = out.past_key_values, out.logits[0, -1]
        drawn_V = self._distribution(logits_V)
        token = (
            int(drawn_V.argmax()) if self.run.greedy else int(drawn_V.exp().multinomial(1, generator=self.generator))
        )
        told_V = drawn_V if self.run.server.processed else logits_V.log_softmax(-1)
        self.tokens.append(token)
        self.tops.append(Run.named(told_V, token, self.run.top or 0))
        self._end(token)

    def _distribution(self, logits_V: Tensor) -> Tensor:
        """Logprobs of what is drawn from."""
        body, logits_V = self.body, logits_V.clone()
        counts = torch.bincount(torch.tensor(self.tokens, dtype=torch.int64), minlength=len(logits_V))
        logits_V -= (body.get("frequency_penalty") or 0) * counts + (body.get("presence_penalty") or 0) * (counts > 0)
        for token, bias in (body.get("logit_bias") or {}).items():
            logits_V[int(token)] += max(-100.0, min(100.0, bias))
        if body.get("allowed_token_ids"):
            outside = torch.ones_like(logits_V, dtype=torch.bool)
            outside[body["allowed_token_ids"]] = False
            logits_V[outside] = -torch.inf
        if self.run.greedy:
            return logits_V.log_softmax(-1)
        return _filtered((logits_V / body.get("temperature", 1.0)).softmax(-1), body).log()

    def _end(self, token: int) -> None:
        eos = self.run.model.config.eos_token_id
        text = self.text(0)
        if token in (self.body.get("stop_token_ids") or ()):
            self.finish, self.found = "stop", token
        elif token == eos and not self.body.get("ignore_eos"):
            self.finish = "stop"
        elif hits := [stop for stop in self.body.get("stop") or () if stop in text]:
            self.finish, self.found = "stop", hits[0]
        elif len(self.tokens) >= self.body["max_tokens"]:
            self.finish = "length"

    def text(self, start: int) -> str:
        skip = self.body.get("skip_special_tokens", True)
        return str(self.run.server.tokenizer.decode(self.tokens[start:], skip_special_tokens=skip))

    def choice(self, start: int) -> Body:
        """What came since token `start`, as the server's kind tells it."""
        kind = self.run.server.owner
        found = {"matched_stop" if kind == "sglang" else "stop_reason": self.found}
        ids = {"token_ids": self.tokens[start:]} if kind != "plain" and self.body.get("return_token_ids") else {}
        echoed = self.run.scored_prompt() if self.body.get("echo") else []
        tops = [Run.named(row, token, self.run.top or 0) for row, token in echoed] + self.tops[start:]
        own = [token for _, token in echoed] + self.tokens[start:]
        first = [self.run.prompt[0]] if self.body.get("echo") else []
        logprobs = {
            "tokens": [self._name(token) for token in first + own],
            "token_logprobs": [None] * len(first) + [top[token] for top, token in zip(tops, own, strict=True)],
            "top_logprobs": [None] * len(first) + [{self._name(t): value for t, value in top.items()} for top in tops],
        }
        return {
            "index": self.number,
            "text": self.text(start),
            "finish_reason": self.finish,
            "logprobs": logprobs if self.run.top is not None else None,
            **found,
            **ids,
        }

    def _name(self, token: int) -> str:
        if self.run.server.owner == "vllm" and self.body.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return str(self.run.server.tokenizer.decode([token]))


def _filtered(probs_V: Tensor, body: Body) -> Tensor:
    """Top-k, top-p and min-p, as their papers have them."""
    kept_V, order_V = probs_V.sort(descending=True, stable=True)
    if (body.get("top_k") or 0) > 0:
        kept_V[body["top_k"] :] = 0
    mass_V = kept_V.cumsum(0) / kept_V.sum()
    kept_V[mass_V - kept_V / kept_V.sum() >= body.get("top_p", 1.0)] = 0
    kept_V[kept_V < (body.get("min_p") or 0) * kept_V[0]] = 0
    return torch.zeros_like(probs_V).scatter_(0, order_V, kept_V / kept_V.sum())


class _Uvicorn(uvicorn.Server):
    """Leaves signals to pytest, and ends when it is told to rather than at its next look at the clock."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told_to_end = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.told_to_end.wait()


@asynccontextmanager
async def http_server(app: Any) -> AsyncIterator[str]:
    """An ASGI app on a free port of the loopback interface; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = _Uvicorn(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.told_to_end.set()
        await task
        listener.close()


@asynccontextmanager
async def model_server(directory: Path, **options: Any) -> AsyncIterator[ModelServer]:
    """A running ModelServer."""
    server = ModelServer(directory=directory, **options)
    async with http_server(server.app()) as server.url:
        yield server


def sampler_settings(server: ModelServer) -> dict[str, object]:
    """Settings of a sampler that answers from `server`, with its model as "random"."""
    return {
        "backend": "openai",
        "base_models": f"random={server.directory}",
        "openai_base_url": server.url,
        "openai_api_key": KEY,
        "openai_start_s": 0,
    }
