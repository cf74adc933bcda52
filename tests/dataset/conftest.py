"""A dataset room with two tokenizers, a data root and a mirror of the hub."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support import random_tokenizer, serving
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import Batching, DatasetSpec, GetBatchRequest, InlineSource, Operation
from tinsmith_server.dataset import ROOM

QWEN_LIKE = (
    "{%- if tools %}{{ '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{%- endif %}"
    "{{ '# Tools\\n<tools>' }}{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{%- endfor %}"
    "{{ '\\n</tools><|im_end|>\\n' }}"
    "{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "{{ '<think>\\n' + (m.reasoning_content or '').strip('\\n') + '\\n</think>\\n\\n' + m.content.lstrip('\\n') }}"
    "{%- else %}{{ m.content }}{%- endif %}"
    "{%- for call in m.tool_calls or [] %}"
    "{%- if m.content or not loop.first %}{{ '\\n' }}{%- endif %}"
    '{{ \'<tool_call>\\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}"
    "{%- endfor %}{{ '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""Tools in the system message, thoughts only behind the last user message, an empty think block in the last turn."""


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML without thoughts and tools; a conversation is a prefix of the same with more turns."""
    return random_tokenizer()


@pytest.fixture(scope="session")
def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The same tokens with a template as Qwen3 has it."""
    tokenizer = random_tokenizer()
    tokenizer.chat_template = QWEN_LIKE
    return tokenizer


@pytest.fixture(scope="session")
def base_models(
    tmp_path_factory: pytest.TempPathFactory,
    plain_tokenizer: PreTrainedTokenizerFast,
    qwen_tokenizer: PreTrainedTokenizerFast,
) -> tuple[str, ...]:
    """The setting that serves both tokenizers."""
    root = tmp_path_factory.mktemp("tokenizers")
    for name, tokenizer in (("plain", plain_tokenizer), ("qwen", qwen_tokenizer)):
        tokenizer.save_pretrained(root / name)
        config = {"model_type": "qwen3", "max_position_embeddings": 512, "vocab_size": len(tokenizer)}
        (root / name / "config.json").write_text(json.dumps(config))
    return tuple(f"{name}={root / name}" for name in ("plain", "qwen"))


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """The folder below which the room reads files."""
    root = tmp_path / "data"
    root.mkdir()
    return root


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder that stands for the hub."""
    root = tmp_path / "mirror"
    root.mkdir()
    return root


@pytest.fixture
async def suite(tmp_path: Path, data_root: Path, mirror: Path, base_models: tuple[str, ...]) -> AsyncIterator[Suite]:
    """Clients of a real room."""
    settings = {"base_models": base_models, "data_root": str(data_root), "mirror_root": str(mirror)}
    async with serving(ROOM, tmp_path / "home", **settings) as address, Suite.connect(dataset=address) as suite:
        yield suite


def inline(rows: Sequence[dict[str, Any]], *operations: Operation) -> DatasetSpec:
    """A dataset of rows in the request."""
    source = InlineSource(rows_json=[json.dumps(row).encode() for row in rows])
    return DatasetSpec(inline=source, operations=operations)


async def read_all(suite: Suite, dataset: DatasetSpec) -> list[dict[str, Any]]:
    """Every row of a finite dataset, as the dicts that its rows are."""
    request = GetBatchRequest(dataset=dataset, batching=Batching(batch_size=65536, epochs=1))
    answer = await suite.datasets.GetBatch(request)
    return [json.loads(row.json) for row in answer.batch.rows]
