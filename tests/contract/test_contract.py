"""The contract is clean, its stubs are current, and every element of it has words."""

import filecmp
import os
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".venv-proto/bin"
CONTRACT = ROOT / "services/tinsmith_server/serving/contract.binpb"


@pytest.fixture(scope="module")
def contract() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(CONTRACT.read_bytes())


def test_python_stubs_and_descriptors_are_those_of_the_contract(tmp_path: Path) -> None:
    """Regenerating changes nothing: what is committed is what proto/ says."""
    if not TOOLS.exists():
        pytest.skip("the generators are not installed: make .venv/.proto")
    command = [TOOLS / "python", ROOT / "proto/generate.py", "--out", tmp_path, "--languages", "python,contract"]
    path = f"{TOOLS}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
    fresh = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(fresh) > 50
    _, different, missing = filecmp.cmpfiles(tmp_path, ROOT, [str(path) for path in fresh], shallow=False)
    assert (different, missing) == ([], []), "run `make proto` and commit what it writes"
    committed = {
        path.relative_to(ROOT) for path in (ROOT / "clients/python").rglob("*_pb2*.py*") if path.suffix != ".pyc"
    }
    assert committed <= set(fresh), "stubs of files that are gone"


def test_buf_finds_nothing(tmp_path: Path) -> None:
    for command in (["lint"], ["format", "--diff", "--exit-code", "--path", "proto/tinsmith"]):
        done = subprocess.run([ROOT / ".venv/bin/buf", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_reads_are_marked_and_lists_are_paginated(contract: FileDescriptorSet) -> None:
    messages = {
        f".{file.package}.{message.name}": {field.name for field in message.field}
        for file in contract.file
        for message in file.message_type
    }
    methods = [method for file in contract.file for service in file.service for method in service.method]
    assert len(methods) > 60
    reads = [method for method in methods if method.name.startswith(("Get", "List", "Watch", "Describe", "Observe"))]
    assert [method.name for method in reads if method.options.idempotency_level != 1] == []
    unbounded = {"ListRecipes", "ListServices", "ListRenderers"}  # a handful at most, by their nature
    for method in reads:
        if method.name.startswith("List") and method.name not in unbounded:
            assert {"page_size", "page_token"} <= messages[method.input_type], method.name
            assert "next_page_token" in messages[method.output_type], method.name


def test_calls_that_change_something_can_be_repeated(contract: FileDescriptorSet) -> None:
    """Each carries a request_id or a seq_id, or is idempotent by what it does (set, delete, cancel, keep alive)."""
    naturally = ("Delete", "Set", "Publish", "Cancel", "Close", "Heartbeat", "Unregister", "Register")
    by_name = {f".{file.package}.{m.name}": m for file in contract.file for m in file.message_type}
    for file in contract.file:
        for service in file.service:
            for method in service.method:
                fields = {field.name for field in by_name[method.input_type].field}
                is_read = method.options.idempotency_level == 1
                assert (
                    is_read
                    or fields & {"request_id", "seq_id"}
                    or method.name.startswith(naturally)
                    or method.name in {"Play", "CopyCheckpoint", "UploadCheckpoint", "ExportModel", "ResumeRun"}
                ), method.name
