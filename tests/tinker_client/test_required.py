"""A room that is to use the service, where the SDK is not installed."""

import sys
from pathlib import Path

import pytest

from tinsmith_server.sampler import ROOM as SAMPLER
from tinsmith_server.serving import CannotServe, RoomDefinition
from tinsmith_server.trainer import ROOM as TRAINER


@pytest.mark.parametrize("definition", [TRAINER, SAMPLER], ids=lambda definition: definition.name)
def test_room_says_what_to_install(definition: RoomDefinition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinker", None)
    with pytest.raises(CannotServe) as failed:
        definition.open(definition.settings.model_validate({"home": tmp_path, "backend": "tinker"}))
    assert f"{definition.name}: backend tinker needs" in str(failed.value)
    assert "pip install 'tinsmith-server[tinker]'" in str(failed.value)


def test_settings_are_read_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other backends never import it."""
    monkeypatch.setitem(sys.modules, "tinker", None)
    for definition in (TRAINER, SAMPLER):
        definition.open(definition.settings.model_validate({"home": tmp_path}))
