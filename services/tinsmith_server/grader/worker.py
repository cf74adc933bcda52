"""The life of a worker process: a line of JSON in, a line of JSON out."""

import json
import os
import socket

from tinsmith_server.grader.confinement import Limits, allow_cpu, confine
from tinsmith_server.grader.grader import Job, Judge
from tinsmith_server.grader.judges import Compare, judged


def work(connection: socket.socket, compare: Compare, limits: Limits, *, without_network: bool) -> None:
    """Confines this process, says hello with its id and how it is confined, and judges until the server hangs up."""
    confined = confine(limits)
    hello = {"pid": os.getpid(), "without_network": without_network, **confined}
    connection.sendall(_line(hello))
    for line in connection.makefile("rb"):
        message = json.loads(line)
        allow_cpu(message.pop("timeout_s"))
        verdict = judged(compare, _job(message))
        connection.sendall(_line({"reason": verdict.reason.value, "message": verdict.message}))


def _job(message: dict[str, object]) -> Job:
    values = {**message, "judge": Judge(message["judge"]), "references": tuple(message["references"])}  # type: ignore[arg-type]
    return Job(**values)  # type: ignore[arg-type]


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"
