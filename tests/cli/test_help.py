"""What the command line offers, and that it says so at once."""

import subprocess
import sys

from tests.cli.programs import tinsmith

HELP = """\
Usage: tinsmith [OPTIONS] COMMAND [ARGS]...

  LLM post-training as services that speak gRPC.

Options:
  --help  Show this message and exit.

Commands:
  serve    Serve one service in this process.
  up       Start all services on this machine and keep them alive until...
  run      Start a run of a recipe and watch it to its end.
  doctor   Versions, settings and where they come from, ports, disk; what...
  demo     Start a suite, teach a small language model to add, write a...
  version  The version of the servers and of this command line.
  runs     Runs: list, show, watch, cancel, resume.
  recipes  Recipes: list them, show what can be set.
  model    The embedded models: list, build.
"""


def test_help_lists_the_commands() -> None:
    done = tinsmith("--help", environment={"COLUMNS": "80"})
    assert done.stdout.strip() == HELP.strip()
    assert done.returncode == 0


def test_help_needs_neither_torch_nor_grpc() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'grpc', 'google.protobuf', 'transformers'): sys.modules[name] = None\n"
        "from tinsmith_server.cli import main\n"
        "sys.argv = ['tinsmith', 'run', '--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FIELD=VALUE" in done.stdout


def test_version_is_one_line() -> None:
    done = tinsmith("version")
    assert done.stdout.startswith("tinsmith ")
    assert done.stdout.count("\n") == 1
