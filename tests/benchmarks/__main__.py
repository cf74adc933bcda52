"""`make bench`: runs the benchmarks, or those that are named: `make bench BENCH="rpc loop"`."""

import sys
from importlib import import_module

from tests.benchmarks.report import publish

NAMES = ("rpc", "sampling", "training", "loop")


def main() -> None:
    chosen = sys.argv[1:] or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in chosen:
        publish(name, import_module(f"tests.benchmarks.{name}").rows())


if __name__ == "__main__":
    main()
