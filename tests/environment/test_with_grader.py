"""Problems in front of the suite's own grader."""

from pathlib import Path

import pytest

from tests.environment.conftest import OpenRoom
from tests.environment.support import Room, problem, says
from tests.support import serving
from tinsmith import TinsmithError
from tinsmith.environment.v1 import EnvironmentSpec, EpisodeGroupSpec
from tinsmith.grader.v1 import EXTRACTION_LAST_INTEGER, GraderSpec, MathGrader
from tinsmith.types.v1 import TERMINATION_EOS, TERMINATION_MALFORMED, TERMINATION_STOP_SEQUENCE
from tinsmith_server.grader import ROOM as GRADER

STOP, EOS, CUT = TERMINATION_STOP_SEQUENCE, TERMINATION_EOS, TERMINATION_MALFORMED
ARITHMETIC = GraderSpec(math=MathGrader(extraction=EXTRACTION_LAST_INTEGER))


def _spec(grader: GraderSpec) -> EnvironmentSpec:
    spec = EnvironmentSpec()
    spec.problem.grader.CopyFrom(grader)
    return spec


async def test_arithmetic_is_rewarded_by_the_last_integer(open_room: OpenRoom, tmp_path: Path) -> None:
    """recipes 1.2 and 5: the arithmetic environment of math_rl."""
    expected = [
        ("18", STOP, 1.0),
        ("The answer is 18.", STOP, 1.0),
        ("9 + 9 = 18", STOP, 1.0),
        ("18 or 19", STOP, 0.0),
        ("I do not know.", STOP, -0.1),
        ("", STOP, -0.1),
        ("18", EOS, 0.9),
        ("18", CUT, 0.9),
        ("1", CUT, -0.1),
    ]
    async with serving(GRADER, tmp_path / "grader") as address, open_room(grader=address) as room:
        group = EpisodeGroupSpec(size=len(expected), problem=problem("What is 9 + 9?", "18"))
        ids = await room.ids(_spec(ARITHMETIC), group)
        actions = [says(ids[place], text, termination=ended) for place, (text, ended, _) in enumerate(expected)]
        results = (await room.step(*actions)).results
    assert [result.rewards[0] for result in results] == pytest.approx([reward for _, _, reward in expected])
    assert results[0].metrics == {"correct": 1.0, "format": 1.0}
    assert results[0].logs["extracted"] == "18"
    assert results[4].metrics == {"correct": 0.0, "format": 0.0}


async def test_a_grader_that_makes_no_sense_is_refused_in_the_graders_words(
    open_room: OpenRoom, tmp_path: Path
) -> None:
    async with serving(GRADER, tmp_path / "grader") as address, open_room(grader=address) as room:
        await _refused(room, GraderSpec(regex={"pattern": "("}))  # type: ignore[arg-type]  # a dict is fine


async def _refused(room: Room, grader: GraderSpec) -> None:
    (episode,) = await room.ids(_spec(grader), EpisodeGroupSpec(problem=problem()))
    with pytest.raises(TinsmithError) as refused:
        await room.step(says(episode, "5"))
    assert refused.value.reason in {"BAD_GRADER", "GRADER_NOT_IMPLEMENTED"}
