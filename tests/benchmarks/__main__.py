"""`make bench`: runs the benchmarks, or those that are named: `make bench BENCH="rpc loop"`.

With `--write docs/benchmarks.md` nothing is run: the tables of the last runs are put into the document.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from tests.benchmarks.document import write_tables
from tests.benchmarks.machine import load_average, machine
from tests.benchmarks.report import Report, publish
from tinsmith_server.serving.launcher import LAUNCHED, launch_environment

NAMES = ("rpc", "sampler", "trainer", "loop")


def main() -> None:
    chosen = _arguments()
    if chosen.write:
        write_tables(chosen.write, NAMES)
        return
    _have_the_environment_of_a_service()
    for name in chosen.names or NAMES:
        before = load_average()
        rows = import_module(f"tests.benchmarks.{name}").rows()
        publish(Report(name=name, rows=rows, machine=machine(before)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; none runs all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables of the last runs into this document")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    return chosen


def _have_the_environment_of_a_service() -> None:
    """The peers run in this process: how memory is given back must not be better for ours than for them."""
    if os.environ.get(LAUNCHED) != "1":
        environment = launch_environment({**os.environ, "HF_HUB_OFFLINE": "1"})
        os.execve(sys.executable, [sys.executable, "-m", "tests.benchmarks", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
