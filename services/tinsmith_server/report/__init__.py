"""What a run did, for people: a learning curve and a page with transcripts, from the run's events alone."""

from tinsmith_server.report.history import History, history_of
from tinsmith_server.report.write import ReportFiles, write_report

__all__ = ["History", "ReportFiles", "history_of", "write_report"]
