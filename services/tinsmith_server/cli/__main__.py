"""`python -m tinsmith_server.cli`: the same as `tinsmith`."""

from tinsmith_server.cli.app import main

main()
