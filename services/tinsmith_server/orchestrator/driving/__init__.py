"""Drives runs: who drives which, and what becomes of failures."""

from tinsmith_server.orchestrator.driving.driver import Driver
from tinsmith_server.orchestrator.driving.supervisor import Supervisor

__all__ = ["Driver", "Supervisor"]
