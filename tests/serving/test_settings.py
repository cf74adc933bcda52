"""Settings: which layer wins, where a value came from, and what is said of a wrong one."""

from pathlib import Path

import pytest

from tests.serving.puppet import PuppetSettings
from tinsmith_server.serving import BadSettings, load_settings


def _file(folder: Path, text: str) -> Path:
    path = folder / "tinsmith.toml"
    path.write_text(text)
    return path


def test_defaults_yield_to_the_file_the_file_to_the_environment_and_that_to_flags(tmp_path: Path) -> None:
    config = _file(
        tmp_path, "drain_s = 1.0\nslow_call_s = 1.0\n[puppet]\nslow_call_s = 2.0\nmax_waiting = 2\nmetrics_port = 2\n"
    )
    environment = {"TINSMITH_PUPPET_MAX_WAITING": "3", "TINSMITH_PUPPET_METRICS_PORT": "3"}
    loaded = load_settings(
        PuppetSettings, "puppet", flags={"metrics_port": "4"}, config=config, environment=environment
    )
    values = loaded.values
    assert isinstance(values, PuppetSettings)
    assert (values.max_message_bytes, values.drain_s, values.slow_call_s) == (64 * 1024 * 1024, 1.0, 2.0)
    assert (values.max_waiting, values.metrics_port) == (3, 4)
    origins = {key: loaded.origins[key] for key in ("max_message_bytes", "drain_s", "slow_call_s")}
    assert origins == {
        "max_message_bytes": "default",
        "drain_s": f"file {config}",
        "slow_call_s": f"file {config} [puppet]",
    }
    assert loaded.origins["max_waiting"] == "environment TINSMITH_PUPPET_MAX_WAITING"
    assert loaded.origins["metrics_port"] == "flag --metrics-port"


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    config = _file(tmp_path, "[puppet]\nmax_waiting = 7\n")
    loaded = load_settings(PuppetSettings, "puppet", environment={"TINSMITH_CONFIG": str(config)})
    assert loaded.values.max_waiting == 7  # type: ignore[attr-defined]  # a puppet's settings


def test_what_all_rooms_share_is_said_once(tmp_path: Path) -> None:
    environment = {
        "TINSMITH_HOME": "~/somewhere",
        "TINSMITH_LOG_LEVEL": "debug",
        "TINSMITH_BASE_MODELS": "tinsmith-tiny, big=/models/big",
        "TINSMITH_CHECKPOINT_ROOT": "/data",
    }
    loaded = load_settings(PuppetSettings, "puppet", environment=environment)
    values = loaded.values
    assert isinstance(values, PuppetSettings)
    assert values.home == Path("~/somewhere").expanduser()
    assert (values.log_level, values.checkpoint_root) == ("debug", "/data")
    assert values.base_models == ("tinsmith-tiny", "big=/models/big")
    config = _file(tmp_path, 'base_models = ["a", "b"]\ncheckpoint_root = "/file"\n')
    loaded = load_settings(PuppetSettings, "puppet", config=config, environment={})
    assert loaded.values.base_models == ("a", "b")  # type: ignore[attr-defined]  # a puppet's settings


def test_a_rooms_own_word_wins_over_what_is_said_to_all() -> None:
    environment = {"TINSMITH_LOG_LEVEL": "debug", "TINSMITH_PUPPET_LOG_LEVEL": "error"}
    loaded = load_settings(PuppetSettings, "puppet", environment=environment)
    assert (loaded.values.log_level, loaded.origins["log_level"]) == ("error", "environment TINSMITH_PUPPET_LOG_LEVEL")


def test_settings_of_other_rooms_are_theirs(tmp_path: Path) -> None:
    config = _file(tmp_path, "[trainer]\nnonsense = 1\n")
    environment = {"TINSMITH_TRAINER_MAX_WAITING": "9", "TINSMITH_MAX_WAITING": "9"}
    loaded = load_settings(PuppetSettings, "puppet", config=config, environment=environment)
    assert loaded.values.max_waiting == 256  # type: ignore[attr-defined]  # a puppet's settings


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_wating": "1"}, ["flag --max-wating", "no setting 'max_wating'", "did you mean 'max_waiting'?"]),
        ({"zzz": "1"}, ["no setting 'zzz'", "there are address, home"]),
        ({"max_waiting": "many"}, ["flag --max-waiting", "max_waiting = 'many'", "integer"]),
        ({"max_waiting": "-1"}, ["flag --max-waiting", "greater than or equal to 0"]),
        ({"log_level": "loud"}, ["flag --log-level", "log_level = 'loud'", "debug|info|warning|error"]),
        ({"metrics_port": "70000"}, ["flag --metrics-port", "65535"]),
    ],
)
def test_a_wrong_flag_is_named_with_what_would_do(flags: dict[str, str], said: list[str]) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(PuppetSettings, "puppet", flags=flags, environment={})
    assert all(words in str(refused.value) for words in said), str(refused.value)


def test_every_wrong_value_is_named_with_its_layer() -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(
            PuppetSettings,
            "puppet",
            flags={"drain_s": "-1"},
            environment={"TINSMITH_PUPPET_MAX_WAITING": "x"},
        )
    assert "environment TINSMITH_PUPPET_MAX_WAITING: max_waiting" in str(refused.value)
    assert "flag --drain-s: drain_s" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drain_s = ", "is not TOML"),
        ("drian_s = 1", "did you mean 'drain_s'?"),
        ("[puppet]\nmax_wating = 1", "did you mean 'max_waiting'?"),
        ("max_waiting = 1", "no room-independent setting 'max_waiting'"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    config = _file(tmp_path, text)
    with pytest.raises(BadSettings) as refused:
        load_settings(PuppetSettings, "puppet", config=config, environment={})
    assert said in str(refused.value)
    assert str(config) in str(refused.value)


def test_a_missing_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="can't read the settings file"):
        load_settings(PuppetSettings, "puppet", config=tmp_path / "none.toml", environment={})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadSettings, match="is not TOML"):
        load_settings(PuppetSettings, "puppet", config=binary, environment={})
