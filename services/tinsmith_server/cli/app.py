"""The commands and their options. Each imports what it needs when it is called, so that `--help` is quick."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinsmith_server.cli.failures import report
from tinsmith_server.cli.folders import home_folder, model_home
from tinsmith_server.cli.ports import PortChoice

FREE_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    help="LLM post-training as services that speak gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
runs = typer.Typer(help="Runs: list, show, watch, cancel, resume.", no_args_is_help=True)
recipes = typer.Typer(help="Recipes: list them, show what can be set.", no_args_is_help=True)
model = typer.Typer(help="The embedded models: list, build.", no_args_is_help=True)
app.add_typer(runs, name="runs")
app.add_typer(recipes, name="recipes")
app.add_typer(model, name="model")

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Folder of the suite; default TINSMITH_HOME, else ~/.tinsmith."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file (TOML); default TINSMITH_CONFIG, else none."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on.")]


def main() -> None:
    """The program. Failures that are the user's business are one line on stderr and an exit code."""
    # gRPC reads it when it is loaded; by default it tells the user of every connection that ends.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app()
    except Exception as error:  # what is no user's business is raised again
        sys.exit(report(error))


@app.command(context_settings=FREE_WORDS)
def serve(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="dataset, trainer, sampler, grader, environment, orchestrator or gateway")
    ],
    config: ConfigOption = None,
) -> None:
    """Serve one service in this process. Its settings are options: --drain-s 5; `tinsmith doctor` lists them."""
    from tinsmith_server.cli.serve import serve as serve_room
    from tinsmith_server.serving.launcher import relaunch_if_needed

    relaunch_if_needed()
    raise typer.Exit(serve_room(name, context.args, config))


@app.command()
def up(
    home: HomeOption = None,
    ports: Annotated[
        PortChoice, typer.Option("--ports", help="default: those in the settings; auto: free ones, kept over restarts.")
    ] = "default",
    base_model: Annotated[
        list[str] | None,
        typer.Option("--base-model", metavar="MODEL", help="NAME or ALIAS=LOCATION; may be given several times."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Start all services on this machine and keep them alive until Ctrl-C."""
    from tinsmith_server.cli.output import console
    from tinsmith_server.cli.up import up as start_suite

    start_suite(home_folder(home), ports, base_model or (), config, console())


@app.command(context_settings=FREE_WORDS)
def run(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="Name of the recipe; `tinsmith recipes list`.")],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Fields to set: steps=10 learning_rate=1e-3.")
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="A name for people.")] = "",
    detach: DetachOption = False,
    dry: Annotated[bool, typer.Option("--dry-run", help="Check everything and start nothing.")] = False,
    home: HomeOption = None,
) -> None:
    """Start a run of a recipe and watch it to its end. Ctrl-C leaves it going."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console
    from tinsmith_server.cli.overrides import overrides_of

    overrides = overrides_of([*(fields or ()), *context.args])
    if dry:
        commands.dry_run(home, recipe, overrides, console())
    else:
        commands.start(home, recipe, overrides, name, console(), detach=detach)


@runs.command("list")
def list_runs(
    limit: Annotated[int, typer.Option("--limit", metavar="COUNT", min=1, help="So many at most.")] = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """The newest runs."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console

    commands.list_runs(home, limit, console(), as_json=as_json)


@runs.command("show")
def show_run(run_id: str, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """State, configuration and metrics of a run."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console

    commands.show(home, run_id, console(), as_json=as_json)


@runs.command("watch")
def watch_run(run_id: str, home: HomeOption = None) -> None:
    """Show a run from its first step to its end. Ctrl-C leaves it going."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console

    commands.watch(home, run_id, console())


@runs.command("cancel")
def cancel_run(run_id: str, home: HomeOption = None) -> None:
    """End a run; it can be resumed."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console

    commands.cancel(home, run_id, console())


@runs.command("resume")
def resume_run(run_id: str, detach: DetachOption = False, home: HomeOption = None) -> None:
    """Go on with a failed or cancelled run from its newest checkpoint."""
    from tinsmith_server.cli import runs as commands
    from tinsmith_server.cli.output import console

    commands.resume(home, run_id, console(), detach=detach)


@recipes.command("list")
def list_recipes(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """What can be run."""
    from tinsmith_server.cli import recipes as commands
    from tinsmith_server.cli.output import console

    commands.list_recipes(home, console(), as_json=as_json)


@recipes.command("show")
def show_recipe(name: str, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Every field of a recipe with type, default and meaning."""
    from tinsmith_server.cli import recipes as commands
    from tinsmith_server.cli.output import console

    commands.show(home, name, console(), as_json=as_json)


@model.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """The embedded models and whether they are built."""
    from tinsmith_server.cli.local_models import list_models as command
    from tinsmith_server.cli.output import console

    command(model_home(), console(), as_json=as_json)


@model.command("build")
def build_model(name: Annotated[str, typer.Argument(help="`tinsmith model list`")] = "tinsmith-tiny") -> None:
    """Build an embedded model ahead of its first use."""
    from tinsmith_server.cli.local_models import build
    from tinsmith_server.cli.output import console, say
    from tinsmith_server.cli.supervised import end_with_supervisor

    end_with_supervisor()
    to = console()
    say(to, f"{name} is in {build(name, model_home(), to)}")


@app.command()
def doctor(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Versions, settings and where they come from, ports, disk; what would stop a suite from starting."""
    from tinsmith_server.cli.doctor import doctor as command
    from tinsmith_server.cli.output import console

    command(home_folder(home), config, console(), as_json=as_json)


@app.command(context_settings=FREE_WORDS)
def demo(
    context: typer.Context,
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Fields of math_rl to set: seed=1.")
    ] = None,
    home: Annotated[
        Path, typer.Option("--home", metavar="DIR", help="Folder for everything that the demo keeps.")
    ] = Path("build/demo"),
) -> None:
    """Start a suite, teach a small language model to add, write a report, stop the suite."""
    from tinsmith_server.cli.demo import demo as command
    from tinsmith_server.cli.output import console
    from tinsmith_server.cli.overrides import overrides_of

    command(home_folder(home), overrides_of([*(fields or ()), *context.args]), console())


@app.command()
def version() -> None:
    """The version of the servers and of this command line."""
    from importlib.metadata import version as version_of

    print(f"tinsmith {version_of('tinsmith-server')}")
