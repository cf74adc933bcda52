"""Every reason with which a service refuses is a promise of the contract: its comments name it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services/tinsmith_server"

OF_EVERY_SERVICE = {
    "INVALID_REQUEST",
    "BAD_PAGE_TOKEN",
    "NOT_READY",
    "SHUTTING_DOWN",
    "NOT_IMPLEMENTED",
    "API_KEY_MISSING",
    "API_KEY_UNKNOWN",
    "TENANT_UNKNOWN",
    "RATE_LIMITED",
    "TENANT_CONCURRENCY",
    "INTERNAL",
}
"""Explained once, in the README."""
AT_START = {"ADDRESS_IN_USE", "BASE_MODEL_UNUSABLE", "BAD_BASE_MODELS", "DATABASE_UNUSABLE", "TOKENIZER_UNSUPPORTED"}
"""Said to the operator by a process that can't start, never to a client."""
OF_RUNS = {"ORCHESTRATOR_RESTARTED"}
"""Why a run went on after a failure, in its events."""

AREAS = {
    "trainer": ("trainer",),
    "storage": ("trainer",),
    "tinker_client": ("trainer",),
    "sampler": ("sampler",),
    "dataset": ("dataset", "renderer"),
    "grader": ("grader",),
    "environment": ("environment",),
    "orchestrator": ("orchestrator", "numerics"),
}
"""Room -> the areas of the contract that it serves."""


def comments(area: str) -> str:
    """All that the contract says in an area."""
    files = FileDescriptorSet.FromString((SERVICES / "serving/contract.binpb").read_bytes()).file
    mine = [file for file in files if file.package == f"tinsmith.{area}.v1"]
    return "\n".join(place.leading_comments for file in mine for place in file.source_code_info.location)


def reasons(room: str) -> Iterator[str]:
    """Constants that the room's code gives as `reason`."""
    for path in sorted((SERVICES / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for keyword in node.keywords if isinstance(node, ast.Call) else ():
                value = keyword.value
                if keyword.arg == "reason" and isinstance(value, ast.Constant) and str(value.value).isupper():
                    yield str(value.value)


@pytest.mark.parametrize("room", AREAS)
def test_contract_names_every_reason(room: str) -> None:
    found = set(reasons(room))
    assert found, "the room refuses nothing?"
    said = "\n".join(comments(area) for area in AREAS[room])
    elsewhere = OF_EVERY_SERVICE | AT_START | OF_RUNS
    assert sorted(reason for reason in found - elsewhere if reason not in said) == []


def test_readme_explains_the_reasons_of_every_service() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [reason for reason in sorted(OF_EVERY_SERVICE) if f"`{reason}`" not in readme] == []
