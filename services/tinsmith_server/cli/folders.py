"""Where things are kept."""

import os
from pathlib import Path

from tinsmith_server.cli.failures import CommandFailed

DEFAULT_HOME = "~/.tinsmith"


def home_folder(home: Path | None) -> Path:
    """The folder of a suite: as given, else TINSMITH_HOME, else ~/.tinsmith."""
    return Path(home or os.environ.get("TINSMITH_HOME") or DEFAULT_HOME).expanduser().absolute()


def model_home() -> Path:
    """The folder in whose `models` the embedded models are cached: TINSMITH_MODEL_HOME, else TINSMITH_HOME, else
    ~/.tinsmith. `--home` does not move it: a model belongs to the machine, not to one suite."""
    return Path(os.environ.get("TINSMITH_MODEL_HOME") or home_folder(None)).expanduser().absolute()


def make_folder(folder: Path) -> Path:
    """Makes the folder if it is not there. CommandFailed when it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"can't make the folder {folder}: {error.strerror}; choose another with --home") from None
    return folder
