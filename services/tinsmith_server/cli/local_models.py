"""The embedded models on this machine: whether they are built, and building them."""

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.output import print_json, print_table
from tinsmith_server.cli.plan import PROGRAM
from tinsmith_server.cli.supervised import supervised
from tinsmith_server.models import EMBEDDED_MODELS, BaseModel, find_directory, parse_base_models

_PLAIN_LINES = 10
"""So often a build says how far it is when it does not speak to a terminal."""


def built_directory(name: str, home: Path) -> Path | None:
    """Where the embedded model is cached; None when it is not built yet."""
    model = EMBEDDED_MODELS[name]
    directory = home / "models" / f"{model.name}-{model.recipe_hash}"
    return directory if directory.is_dir() else None


def local_entries(entries: Sequence[str], home: Path, console: Console) -> list[str]:
    """Entries of the setting base_models with directories in place of embedded models, built if they are missing.

    The build is a process of its own: it needs torch, which is not to stay in the caller's memory.
    """
    try:
        models = parse_base_models(entries).values()
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    return [_entry(model, home, console) for model in models]


def _entry(model: BaseModel, home: Path, console: Console) -> str:
    if model.location not in EMBEDDED_MODELS:
        return model.location if model.name == model.location else f"{model.name}={model.location}"
    if built_directory(model.location, home) is None:
        _build_in_child(model.location, home, console)
    directory = find_directory(model, home)
    if "," in str(directory):
        raise CommandFailed(f"no comma may be in the folder of models, {directory}: set TINSMITH_MODEL_HOME elsewhere")
    return f"{model.name}={directory}"


def _build_in_child(name: str, home: Path, console: Console) -> None:
    message = f"building the embedded model {name}, once for this machine, into {home / 'models'}: about a minute"
    console.print(message, highlight=False, soft_wrap=True)
    console.file.flush()
    environment = supervised({**os.environ, "TINSMITH_MODEL_HOME": str(home)})
    done = subprocess.run([*PROGRAM, "model", "build", name], env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise CommandFailed(f"the embedded model {name} was not built: see above")


def build(name: str, home: Path, console: Console) -> Path:
    """Builds an embedded model in this process, showing how far it is; returns its directory. Nothing to do is fine.

    CommandFailed when there is no such model.
    """
    if name not in EMBEDDED_MODELS:
        raise CommandFailed(f"no embedded model {name!r}; there are {', '.join(EMBEDDED_MODELS)}")
    with _progress(name, console) as progress:
        return find_directory(BaseModel(name=name, location=name), home, progress)


@contextmanager
def _progress(name: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    if not console.is_terminal:
        yield _plain_progress(name, console)
        return
    columns = TextColumn(f"building {name}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_progress(name: str, console: Console) -> Callable[[int, int], None]:
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if total and done * _PLAIN_LINES // total > told:
            told = done * _PLAIN_LINES // total
            console.print(f"building {name}: step {done} of {total}", highlight=False)
            console.file.flush()

    return tell


def list_models(home: Path, console: Console, *, as_json: bool) -> None:
    """Prints the embedded models and where they are."""
    found = {name: built_directory(name, home) for name in EMBEDDED_MODELS}
    if as_json:
        print_json([{"name": name, "directory": str(directory or "")} for name, directory in found.items()])
        return
    rows = [(name, str(directory or f"not built: tinsmith model build {name}")) for name, directory in found.items()]
    print_table(console, ("embedded model", "where"), rows)
