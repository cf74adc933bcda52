"""What worker processes run. Never imported by the server: here is what may hang or grow."""

from collections.abc import Callable, Mapping

from tinsmith_server.grader.grade import Reason
from tinsmith_server.grader.grader import Job, Judge, Verdict

Compare = Callable[[Job], Verdict]


def load(judge: Judge) -> Compare:
    """The comparison of a judge, with all that it imports. It has run once: a worker can't import, as it may not be
    allowed to read the files."""
    compare = _LOADERS[judge]()
    for answer, reference in _WARM_UP:
        compare(Job(judge=judge, answer=answer, references=(reference,)))
    return compare


def _symbolic() -> Compare:
    from tinsmith_server.grader.symbolic_judge import compare

    return compare


def _math_verify() -> Compare:
    from tinsmith_server.grader.math_verify_judge import compare

    return compare


_LOADERS: Mapping[Judge, Callable[[], Compare]] = {Judge.SYMBOLIC: _symbolic, Judge.MATH_VERIFY: _math_verify}
_WARM_UP = (
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\sin^2 x+\cos^2 x+\ln(y)", r"1+\log y"),
    (r"(x+1)^2", r"x^2+2x+1"),
    (r"(1,\sqrt{2}]", r"[0,1)"),
    (r"\{1,2\}", r"\{2,x\}"),
    (r"x<2", r"(-\infty,2)"),
    (r"2x<4", r"x<2"),
    (r"\begin{pmatrix}1&x\\2&3\end{pmatrix}", r"\begin{pmatrix}1&y\\2&3\end{pmatrix}"),
    (r"e^{i\pi}+5!+\binom{5}{2}+|x|+\lfloor x\rfloor", "x"),
    (r"\arctan(x)+\tan y", r"\sinh(x)"),
)
_EXPECTED_PROBLEMS: Mapping[type[BaseException], Reason] = {
    MemoryError: Reason.MEMORY,
    RecursionError: Reason.TOO_COMPLEX,
    OverflowError: Reason.TOO_COMPLEX,
}


def judged(compare: Compare, job: Job) -> Verdict:
    """The verdict of `compare`, whatever happens in it."""
    try:
        return compare(job)
    except Exception as error:
        reason = _EXPECTED_PROBLEMS.get(type(error), Reason.CRASHED)
        return Verdict(reason=reason, message=f"the comparison failed: {type(error).__name__}")
