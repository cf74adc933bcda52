"""Embedded models are built whole, once, and the same every time."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tinsmith_server.models import EMBEDDED_MODELS, BaseModel, EmbeddedModel, find_directory
from tinsmith_server.models.embedded import embedded_directory, examples, tokenizer, warm_up
from tinsmith_server.models.embedded.build import build
from tinsmith_server.models.embedded.conversations import batches
from tinsmith_server.serving.errors import FailedPrecondition, ResourceExhausted

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from tinsmith_server.models import EMBEDDED_MODELS
from tinsmith_server.models.embedded import embedded_directory
model = replace(EMBEDDED_MODELS["tinsmith-tiny"], warm_up_steps=int(sys.argv[2]))
steps = []
print(embedded_directory(model, Path(sys.argv[1]), lambda done, of: steps.append(done)), len(steps))
"""


def _start_building(home: Path, model: EmbeddedModel) -> subprocess.Popen[str]:
    """Another process that has begun to build `model`, which is tinsmith-tiny but for its steps."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, str(home), str(model.warm_up_steps)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not _partial(home, model).exists():
        assert process.poll() is None, "it ended before it began"
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.02)
    return process


def _partial(home: Path, model: EmbeddedModel) -> Path:
    return home / "models" / f"{model.name}-{model.recipe_hash}.partial"


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_two_builds_give_the_same_bytes_whatever_the_process_did_before(
    brief_model: EmbeddedModel, brief_directory: Path
) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(12345)
    torch.rand(3)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        again = build(brief_model)
    assert _digests(again) == _digests({path.name: path.read_bytes() for path in brief_directory.iterdir()})


def test_a_build_leaves_the_process_as_it_was(brief_model: EmbeddedModel) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    build(replace(brief_model, warm_up_steps=1))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "parameters"), [("tinsmith-tiny", 131_456), ("tinsmith-small", 354_096)])
def test_models_have_their_sizes(name: str, parameters: int, tmp_path: Path) -> None:
    directory = embedded_directory(replace(EMBEDDED_MODELS[name], warm_up_steps=1), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.num_parameters() == parameters
    assert model.config.max_position_embeddings == 2048


def test_transformers_loads_it_as_an_ordinary_checkpoint(brief_directory: Path) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(brief_directory, output_loading_info=True)
    model, facts = loaded
    words = AutoTokenizer.from_pretrained(brief_directory)
    generation = GenerationConfig.from_pretrained(brief_directory)
    assert model.config.architectures == [type(model).__name__] == ["Qwen3ForCausalLM"]
    assert not facts["missing_keys"]
    assert not facts["unexpected_keys"]
    assert model.config.vocab_size == len(words) == 512
    assert model.config.eos_token_id == generation.eos_token_id == words.eos_token_id
    assert model.config.pad_token_id == generation.pad_token_id == words.pad_token_id
    prompt = words("What is 4 + 5?", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=3).shape[1] <= prompt["input_ids"].shape[1] + 3


def test_a_save_of_transformers_loads_again(brief_directory: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(brief_directory).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(brief_directory).save_pretrained(tmp_path)
    first, again = (AutoTokenizer.from_pretrained(place) for place in (brief_directory, tmp_path))
    assert first.get_vocab() == again.get_vocab()
    assert first.chat_template == again.chat_template


def test_find_directory_builds_once_and_tells_its_progress(
    brief_model: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tinsmith_server.models.base_models.EMBEDDED_MODELS", {"tinsmith-tiny": replace(brief_model, warm_up_steps=2)}
    )
    steps: list[tuple[int, int]] = []
    model = BaseModel(name="mine", location="tinsmith-tiny")
    directory = find_directory(model, tmp_path, lambda done, of: steps.append((done, of)))
    assert steps == [(1, 2), (2, 2)]
    assert find_directory(model, tmp_path, lambda done, of: pytest.fail("built again")) == directory
    assert directory.parent == tmp_path / "models"


@pytest.mark.slow
def test_a_process_that_asks_during_a_build_waits_for_it(brief_model: EmbeddedModel, tmp_path: Path) -> None:
    model = replace(brief_model, warm_up_steps=20)
    builder = _start_building(tmp_path, model)
    directory = embedded_directory(model, tmp_path, lambda done, of: pytest.fail("built twice"))
    answer, _ = builder.communicate(timeout=60)
    assert answer.split() == [str(directory), "20"]


@pytest.mark.chaos
def test_a_killed_build_is_begun_anew(brief_model: EmbeddedModel, tmp_path: Path) -> None:
    endless = replace(brief_model, warm_up_steps=100_000)
    builder = _start_building(tmp_path, endless)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    left = _partial(tmp_path, endless)
    (left / "model.safetensors").write_bytes(b"half a model")
    left.rename(_partial(tmp_path, brief_model))
    directory = embedded_directory(brief_model, tmp_path)
    assert AutoModelForCausalLM.from_pretrained(directory) is not None
    assert not _partial(tmp_path, brief_model).exists()


def test_a_full_disk_is_told_before_the_work(
    brief_model: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        ResourceExhausted, match=r"no room for base model 'tinsmith-tiny' in .*models: .*home"
    ) as caught:
        embedded_directory(brief_model, tmp_path, lambda done, of: pytest.fail("worked"))
    assert caught.value.reason == "STORAGE_FULL"


def test_a_file_that_can_not_be_written_whole_leaves_nothing_behind(brief_model: EmbeddedModel, tmp_path: Path) -> None:
    """A limit on the size of files, the kernel's own, stands in for a disk that fills up while writing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(ResourceExhausted) as caught:
            embedded_directory(replace(brief_model, warm_up_steps=1), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.reason == "STORAGE_FULL"
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []


def _below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "home"


def _a_file_in_its_place(folder: Path) -> Path:
    (folder / "models").write_text("")
    return folder


def _where_the_kernel_forbids_it(folder: Path) -> Path:
    return Path("/proc")


@pytest.mark.parametrize("home", [_below_a_file, _a_file_in_its_place, _where_the_kernel_forbids_it])
def test_a_folder_that_can_not_be_written_is_named(
    home: Callable[[Path], Path], brief_model: EmbeddedModel, tmp_path: Path
) -> None:
    with pytest.raises(FailedPrecondition, match=r"can't keep base model 'tinsmith-tiny' in .*; set home to") as caught:
        embedded_directory(brief_model, home(tmp_path))
    assert caught.value.reason == "STORAGE_NOT_WRITABLE"


def test_the_recipe_s_hash_knows_its_fields(brief_model: EmbeddedModel) -> None:
    others = [replace(brief_model, seed=1), replace(brief_model, hidden_size=32), replace(brief_model, name="x")]
    assert len({model.recipe_hash for model in (brief_model, *others)}) == 4


def test_a_changed_recipe_is_counted() -> None:
    """When this fails, the builds have changed: raise catalogue._RECIPE, then put the new digest here."""
    recipe = {
        "conversations": [str(conversation) for batch in islice(batches(0), 20) for conversation in batch],
        "tokenizer": [tokenizer._PIECES, tokenizer._TEXT_BATCHES, tokenizer.tokenizer_options(2048)],
        "examples": [examples.PROMPT_WEIGHT, examples._BOUNDS],
        "warm-up": [value for name, value in sorted(vars(warm_up).items()) if name.isupper()],
    }
    assert hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12] == "d4f7000f6640"
