"""What the setting `base_models` may say, and where it leads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tinsmith_server.models import BaseModel, find_directory, parse_base_models
from tinsmith_server.serving.errors import NotFound


@pytest.mark.parametrize(
    ("entry", "name", "location"),
    [
        ("tinsmith-tiny", "tinsmith-tiny", "tinsmith-tiny"),
        (" tinsmith-tiny ", "tinsmith-tiny", "tinsmith-tiny"),
        ("small=tinsmith-small", "small", "tinsmith-small"),
        ("student = Qwen/Qwen3-0.6B", "student", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/models/qwen", "/models/qwen", "/models/qwen"),
        ("qwen=/models/rank=8", "qwen", "/models/rank=8"),
        ("/models/rank=8", "/models/rank=8", "/models/rank=8"),
        ("./rank=8", "./rank=8", "./rank=8"),
    ],
)
def test_an_entry_is_a_location_or_an_alias_for_one(entry: str, name: str, location: str) -> None:
    assert parse_base_models([entry]) == {name: BaseModel(name=name, location=location)}


def test_models_keep_the_order_of_the_entries() -> None:
    assert list(parse_base_models(["b=x", "a", "c"])) == ["b", "a", "c"]


@pytest.mark.parametrize("entry", ["", "  ", "=", "alias=", "=location", " = "])
def test_a_blank_entry_alias_or_location_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is blank"):
        parse_base_models([entry])


@pytest.mark.parametrize("entries", [["a", "a"], ["a", "a=b"], ["a=b", "a=b"]])
def test_a_name_is_given_once(entries: list[str]) -> None:
    with pytest.raises(ValueError, match="'a' is there twice"):
        parse_base_models(entries)


def test_one_location_may_have_two_names() -> None:
    assert len(parse_base_models(["a=tinsmith-tiny", "b=tinsmith-tiny"])) == 2


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert find_directory(BaseModel(name="m", location=str(tmp_path)), tmp_path / "home") == tmp_path
    assert not (tmp_path / "home").exists()


def test_a_directory_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert find_directory(BaseModel(name="m", location="~/models"), tmp_path) == tmp_path / "models"


@pytest.mark.parametrize("location", ["/no/such/place", "./none", "~/none/here", "a/b/c"])
def test_a_missing_directory_is_not_taken_for_a_hub_id(location: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"no directory {location}; .*tinsmith-tiny") as caught:
        find_directory(BaseModel(name="m", location=location), tmp_path)
    assert caught.value.reason == "BASE_MODEL_NOT_FOUND"
    assert caught.value.metadata == {"base_model": "m"}


@pytest.mark.parametrize("location", ["no-such-owner/no-such-model", "no-such-model"])
def test_a_hub_id_that_is_not_cached_says_what_to_do_offline(location: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"not in the hub's cache.*tinsmith-tiny.*HF_HUB_OFFLINE.*HF_ENDPOINT") as caught:
        find_directory(BaseModel(name="m", location=location), tmp_path)
    assert caught.value.reason == "BASE_MODEL_NOT_FOUND"


@pytest.mark.parametrize("location", ["what is this?", "a b", "tinsmith tiny", "x" * 200])
def test_nonsense_is_said_to_be_none_of_the_three(location: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither an embedded model nor a directory nor a hub id"):
        find_directory(BaseModel(name="m", location=location), tmp_path)


def test_a_hub_id_leads_to_its_snapshot_in_the_hub_s_cache(brief_directory: Path, tmp_path: Path) -> None:
    repository, commit = tmp_path / "hub" / "models--org--name", "a" * 40
    shutil.copytree(brief_directory, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    program = (
        "import sys; from pathlib import Path; from tinsmith_server.models import BaseModel, find_directory;"
        "print(find_directory(BaseModel(name='m', location='org/name'), Path(sys.argv[1])))"
    )
    environment = {**_environment(), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=environment, check=True, capture_output=True, text=True
    )
    assert Path(answer.stdout.strip()) == repository / "snapshots" / commit


def test_an_unreachable_hub_says_what_to_do(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tinsmith_server.models import BaseModel, find_directory;"
        "find_directory(BaseModel(name='m', location='org/name'), Path(sys.argv[1]))"
    )
    there = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    answer = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env={**_environment(), **there}, capture_output=True, text=True
    )
    assert answer.returncode == 1
    assert "NotFound: base model 'm': 'org/name' is not in the hub's cache" in answer.stderr


def test_naming_models_needs_no_torch() -> None:
    """The command line and the dataset room name models; importing torch takes seconds."""
    program = (
        "import sys; from tinsmith_server.models import EMBEDDED_MODELS, find_directory, parse_base_models;"
        "parse_base_models(list(EMBEDDED_MODELS)); print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], env=_environment(), check=True, capture_output=True, text=True
    )
    assert answer.stdout.strip() == "set()"


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
