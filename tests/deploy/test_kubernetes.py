"""The Kubernetes manifests: they render, a schema validator takes them, and they say what the code says."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tinsmith_server.serving import ROOMS, RoomSettings, find_room, load_settings
from tinsmith_server.serving.process import LIVENESS

BASE = Path(__file__).resolve().parents[2] / "deploy/kubernetes/base"


@pytest.fixture(scope="module")
def rendered() -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return subprocess.run(["kubectl", "kustomize", BASE], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def objects(rendered: str) -> list[Any]:
    return list(yaml.safe_load_all(rendered))


@pytest.fixture(scope="module")
def workloads(objects: list[Any]) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] in ("Deployment", "StatefulSet")}


def _container(workload: Any) -> Any:
    [container] = workload["spec"]["template"]["spec"]["containers"]
    return container


def _shared_settings() -> dict[str, str]:
    lines = (BASE / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_schema_validator_accepts_every_object(rendered: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(rendered)
    validator = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [validator, "--strict", tmp_path / "all.yaml"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_a_workload_and_a_headless_service_for_every_room(
    objects: list[Any], workloads: dict[str, Any]
) -> None:
    services = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Service"}
    assert workloads.keys() == services.keys() == ROOMS.keys()
    for name, service in services.items():
        assert service["clusterIP"] == "None"
        labels = workloads[name]["spec"]["template"]["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()


@pytest.mark.parametrize("name", ROOMS)
def test_ports_probes_and_arguments_are_those_of_the_code(
    name: str, objects: list[Any], workloads: dict[str, Any]
) -> None:
    room = find_room(name)
    container = _container(workloads[name])
    assert container["args"] == [name]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["grpc"] == room.default_port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == room.default_port
    assert container["livenessProbe"]["grpc"]["service"] == LIVENESS
    [service] = [item for item in objects if item["kind"] == "Service" and item["metadata"]["name"] == name]
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports


@pytest.mark.parametrize("name", ROOMS)
def test_every_variable_is_a_setting_and_every_address_that_of_a_service(name: str, workloads: dict[str, Any]) -> None:
    """A misspelt variable would be ignored in silence: each must be taken by the settings of the room it names."""
    room = find_room(name)
    own = {item["name"]: item["value"] for item in _container(workloads[name])["env"]}
    variables = _shared_settings() | own
    loaded = load_settings(room.settings, name, environment=variables)
    prefix = f"TINSMITH_{name.upper()}_"
    expected = {key for key in variables if key.startswith(prefix)}
    taken = {origin.removeprefix("environment ") for origin in loaded.origins.values() if origin != "default"}
    assert expected <= taken
    for key in room.settings.model_fields.keys() & ROOMS.keys():
        assert getattr(loaded.values, key) == f"dns:///{key}:{find_room(key).default_port}", "callers name the Service"


def test_no_shared_variable_is_left_without_a_room() -> None:
    rooms = {name.upper(): find_room(name).settings.model_fields for name in ROOMS}
    for variable in _shared_settings():
        key = variable.removeprefix("TINSMITH_")
        room, _, rest = key.partition("_")
        known = rooms[room] if room in rooms else {name for fields in rooms.values() for name in fields}
        assert (rest if room in rooms else key).lower() in known, variable


def test_pods_have_more_time_to_stop_than_the_drain_takes(workloads: dict[str, Any]) -> None:
    for name, workload in workloads.items():
        drain_s = RoomSettings().drain_s
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s, name


def test_pods_have_no_privileges(workloads: dict[str, Any]) -> None:
    for name, workload in workloads.items():
        spec, container = workload["spec"]["template"]["spec"], _container(workload)
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["automountServiceAccountToken"] is False, name
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_what_must_outlive_a_pod_is_on_a_volume(workloads: dict[str, Any]) -> None:
    def claims(name: str) -> dict[str, str]:
        spec = workloads[name]["spec"]["template"]["spec"]
        mounts = {item["name"]: item["mountPath"] for item in spec["containers"][0]["volumeMounts"]}
        found = [item for item in spec["volumes"] if "persistentVolumeClaim" in item]
        return {mounts[item["name"]]: item["persistentVolumeClaim"]["claimName"] for item in found}

    assert claims("trainer") == claims("sampler") == {_shared_settings()["TINSMITH_CHECKPOINT_ROOT"]: "checkpoints"}
    assert claims("orchestrator") == {"/var/lib/tinsmith": "runs"}
