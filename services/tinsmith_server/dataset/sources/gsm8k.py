"""GSM8K's answers: the final one follows the last "####" of the solution."""

MARK = "####"


def final_answer(solution: str) -> str | None:
    """The text of the last line that begins with "####", without ":" and ","; None when there is none.

    As tinker-cookbook reads it: "$18.00" stays, "#### 6 b" is "6 b".
    """
    for line in reversed(solution.splitlines()):
        if line.strip().startswith(MARK):
            answer = line.strip().removeprefix(MARK).strip()
            answer = answer.removeprefix(":").strip().replace(",", "").strip()
            return answer or None
    return None
