"""Rows that can't be read: the first one ends the reading, or all are counted."""

from dataclasses import dataclass

from tinsmith_server.serving.errors import InvalidArgument


@dataclass(kw_only=True, slots=True)
class BadRows:
    """What to do with them, and how many were left out so far."""

    skip: bool
    skipped: int = 0

    def found(self, file: str, line: int, problem: str) -> None:
        """Counts a bad row, or raises InvalidArgument with reason BAD_ROW; `line` counts from 1."""
        if not self.skip:
            raise bad_row(file, line, problem)
        self.skipped += 1


def bad_row(file: str, line: int, problem: str) -> InvalidArgument:
    """`file` is its name as the caller may see it; a line of 0 means the file as a whole."""
    where = f"{file}:{line}" if line else file
    return InvalidArgument(
        f"{where}: {problem}; mend it, or set bad_rows to SKIP",
        reason="BAD_ROW",
        metadata={"file": file, "line": str(line), "problem": problem},
    )
