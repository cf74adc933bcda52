"""The last stage of the lenient cascade."""

from tinsmith_server.grader.comparison import Comparison
from tinsmith_server.grader.expression import NotParsed, TooComplex
from tinsmith_server.grader.grade import Reason
from tinsmith_server.grader.grader import Job, Verdict

_ORDER = (Reason.EQUAL, Reason.TOO_COMPLEX, Reason.DIFFERENT, Reason.NOT_PARSED)
"""Which verdict counts when there are several references."""


def compare(job: Job) -> Verdict:
    """The answer against each reference, both in normal spelling."""
    comparison = Comparison(relative_tolerance=job.relative_tolerance)
    verdicts = [_verdict(comparison, job.answer, reference) for reference in job.references]
    return min(verdicts, key=lambda verdict: _ORDER.index(verdict.reason))


def _verdict(comparison: Comparison, answer: str, reference: str) -> Verdict:
    try:
        agree = comparison.texts_agree(answer, reference)
    except NotParsed as error:
        return Verdict(reason=Reason.NOT_PARSED, message=str(error))
    except TooComplex as error:
        return Verdict(reason=Reason.TOO_COMPLEX, message=str(error))
    return Verdict(reason=Reason.EQUAL if agree else Reason.DIFFERENT)
