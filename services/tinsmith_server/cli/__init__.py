"""The command line: `tinsmith …`. Nothing heavy is imported before a command needs it."""

from tinsmith_server.cli.app import main

__all__ = ["main"]
