"""Hostile answers: nothing of them runs, none takes more than its time, none takes a worker with it for good."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader.grader import Judge

_NESTED_ROOTS = r"\sqrt{" * 30 + "2" + "}" * 30
POISON = {
    "factorial of a factorial": "(10!)!",
    "30 roots": _NESTED_ROOTS,
    "200 roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "200 fractions": r"\frac{1}{1+" * 200 + "2" + "}" * 200,
    "500 parentheses": "(" * 500 + "1" + ")" * 500,
    "5000 parentheses": "(" * 5000 + "1" + ")" * 5000,
    "typed tower": "9**9**9",
    "large factorial": "99999999!",
    "tower": "10^{10^{10}}",
    "bare tower": "10^10^10",
    "million bits": "2^{10^6}",
    "ten million bits": "2^{10^7}",
    "integral": r"\int_0^1 \frac{\sin(x^7+x+1)}{x^5+x+3}dx",
    "series": r"\sum_{n=1}^{\infty}\frac{1}{n^7+n+1}",
    "product": r"\prod_{n=1}^{100000} (1+1/n)",
    "limit": r"\lim_{x\to 0}\frac{\sin x}{x}",
    "binomial": r"\binom{10^6}{5\cdot 10^5}",
    "set": r"\{" + ",".join(map(str, range(500))) + r"\}",
    "200k characters": "x" * 200_000,
    "20k spaces": "1" + " " * 20_000 + "2",
    "high power": "(x+y)^{500}",
    "polynomial": "+".join(f"x^{{{power}}}" for power in range(61)),
    "trigonometry": "+".join(rf"\sin({k}x)\cos({k}y)" for k in range(1, 30)),
    "matrix": r"\begin{pmatrix}" + r"\\".join("&".join("x" * 20) for _ in range(20)) + r"\end{pmatrix}",
    "100k digits": "1" * 100_000,
    "2000 terms": "+".join("1" * 2000),
    "root of a large number": r"\sqrt{" + "9" * 3000 + "}",
    "floor": r"\lfloor 10^{4000}\pi\rfloor",
    "NUL": "1\x00",
    "emoji": "😀" * 50,
    "dollars": "$$$",
    "unclosed fraction": r"\frac{1}{",
    "unclosed left": r"\left( 1",
    "full-width digits": "４２",
    "factorials in a row": "3" + "!" * 1000,
}
"""requirements.md 8a, and what else came to mind."""

PROBES = [
    "__import__('os').system('touch {path}')",
    "__import__(chr(111)+chr(115)).system('touch {path}')",
    "().__class__.__base__.__subclasses__()",
    "open('{path}','w')",
    "(lambda: open('{path}','w'))()",
    'exec(\'open("{path}","w")\')',
    "eval(compile('open(\"{path}\",\"w\")','','exec'))",
    "1 if open('{path}','w') else 0",
    "[open('{path}','w') for x in (1,)]",
    "x.__class__",
    "sympify(\"open('{path}','w')\")",
    "S(\"open('{path}','w')\")",
    "Symbol('x').func(open('{path}','w'))",
    'f\'{{open("{path}","w")}}\'',
    "1\nimport os\nos.system('touch {path}')",
    "1;import os;os.system('touch {path}')",
    "1#\nopen('{path}','w')",
    r"\text{{__import__('os').system('touch {path}')}}",
    r"\operatorname{{__import__}}('os').system('touch {path}')",
    r"\mathrm{{open}}('{path}','w')",
    r"\input{{{path}}} \write18{{touch {path}}}",
    r"\immediate\openout1={path}",
    "ｏｐｅｎ('{path}','w')",
    "𝐨𝐩𝐞𝐧('{path}','w')",
    "ｅｖａｌ(ｏｐｅｎ('{path}','w'))",
    "{path}",
    "`touch {path}`",
    "$(touch {path})",
    "x_{{__import__('os').system('touch {path}')}}",
    "lambda x: x",
    "Integer(1).__class__.__mro__",
    "factorial(10**10)",
    "E.__reduce__()",
]


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder in which every user may write."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    return tmp_path


@pytest.mark.parametrize("mode", [pb.MATH_MODE_LENIENT, pb.MATH_MODE_MATH_VERIFY])
async def test_code_in_an_answer_does_not_run(lab, kit, mode: "pb.MathMode.ValueType", open_folder: Path) -> None:  # type: ignore[no-untyped-def]
    """G-09"""
    target = open_folder / "touched"
    answers = [probe.format(path=target) for probe in PROBES]
    whole = await lab.grade([(answer, "3") for answer in answers], kit.whole(mode), item_timeout_s=20)
    boxed = pb.GraderSpec(math=pb.MathGrader(mode=mode))
    in_boxes = await lab.grade([(rf"\boxed{{{answer}}}", "3") for answer in answers], boxed, item_timeout_s=20)
    as_references = await lab.grade([("3", answer) for answer in answers], kit.whole(mode), item_timeout_s=20)
    assert not any(result.correct for result in (*whole, *in_boxes, *as_references))
    assert os.listdir(open_folder) == []


@pytest.mark.parametrize("mode", [pb.MATH_MODE_LENIENT, pb.MATH_MODE_MATH_VERIFY])
async def test_poison_ends_in_time(lab, kit, mode: "pb.MathMode.ValueType") -> None:  # type: ignore[no-untyped-def]
    """G-08, G-11, G-12: each ends half a second after its deadline at the latest, and the call soon after the last."""
    await lab.grade([(r"\sqrt{2}", r"\sqrt{3}")], kit.whole(mode), item_timeout_s=30)
    began = time.monotonic()
    results = await lab.grade([(text, r"x+\sqrt{3}") for text in POISON.values()], kit.whole(mode), item_timeout_s=0.4)
    assert time.monotonic() - began <= len(POISON) * 0.9
    for name, result in zip(POISON, results, strict=True):
        assert not result.correct, name
        assert result.milliseconds <= 900, name
        assert result.reason in {"DIFFERENT", "NOT_PARSED", "TOO_COMPLEX", "DEADLINE", "MEMORY"}, name
        failed = result.outcome == pb.GRADE_OUTCOME_FAILED
        assert failed == (result.reason in {"TOO_COMPLEX", "DEADLINE", "MEMORY"}), name


async def test_capacity_comes_back_after_poison(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-08: many more deadlines than workers, then as many workers as before."""
    spec = kit.whole(pb.MATH_MODE_MATH_VERIFY)
    poison = [(f"{10 + number}^{{10^{{10}}}}", "3") for number in range(6)]
    assert await lab.reasons(poison, spec, item_timeout_s=0.3) == ["DEADLINE"] * 6
    again = await lab.reasons([(rf"\sqrt{{{k}}}\sqrt{{{k}}}", str(k)) for k in range(2, 8)], spec, item_timeout_s=20)
    assert again == ["EQUAL"] * 6
    assert len(lab.room.pools[Judge.MATH_VERIFY].worker_pids()) == 2


async def test_equal_poison_costs_one_deadline(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""
    began = time.monotonic()
    reasons = await lab.reasons([("7^{10^{10}}", "3")] * 40, kit.whole(pb.MATH_MODE_MATH_VERIFY), item_timeout_s=0.5)
    assert reasons == ["DEADLINE"] * 40
    assert time.monotonic() - began < 40 * 0.5 / 2


async def test_one_percent_of_poison_spoils_nothing_else(lab, kit) -> None:  # type: ignore[no-untyped-def]
    """G-06"""
    chance = random.Random(0)
    pairs, expected = [], []
    for number in range(1000):
        if number % 100 == 50:
            pairs.append((r"\sqrt{" + str(number) + "9" * 3000 + "}", "x"))
            expected.append("DEADLINE")
            continue
        k, right = chance.randrange(2, 60), chance.random() < 0.5
        answer, reference = chance.choice([(str(k), str(k + (not right))), (rf"\sqrt{{{k}}}^2", str(k + (not right)))])
        pairs.append((answer, reference))
        expected.append("EQUAL" if right else "DIFFERENT")
    found = await lab.reasons(pairs, kit.whole(), item_timeout_s=0.5)
    assert found == expected


async def test_memory_of_workers_stays_flat(lab) -> None:  # type: ignore[no-untyped-def]
    """G-08: distinct items, so that no cache answers."""

    def resident() -> int:
        return sum(psutil.Process(pid).memory_info().rss for pid in lab.room.pools[Judge.SYMBOLIC].worker_pids())

    async def many(start: int) -> None:
        pairs = [(rf"\sqrt{{{k}}}+x", rf"x+\sqrt{{{k}}}") for k in range(start, start + 600)]
        assert set(await lab.reasons(pairs)) == {"EQUAL"}

    await many(10_000)
    before = resident()
    await many(20_000)
    assert resident() - before < 40_000_000


def test_a_confined_process_can_do_nothing_but_compute(open_folder: Path) -> None:
    """G-08"""
    script = f"""
import encodings.idna, os, resource, socket
from tinsmith_server.grader.confinement import Limits, confine, leave_network
print("network", leave_network())
confine(Limits(memory_bytes=1 << 30))
def attempt(name, action):
    try:
        action()
        print(name, "done")
    except (OSError, MemoryError, ValueError) as error:
        print(name, type(error).__name__)
def write():
    with open({str(open_folder / "file")!r}, "w") as file:
        file.write("x")
attempt("fork", os.fork)
attempt("write", write)
attempt("memory", lambda: bytearray(2 << 30))
attempt("limit", lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", 9), timeout=1))
print("uid", os.geteuid())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    done = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert done["uid"] != "0"
    assert done["write"] == "OSError"
    assert not os.listdir(open_folder) or (open_folder / "file").stat().st_size == 0
    assert done["memory"] == "MemoryError"
    assert done["limit"] == "ValueError"
    assert done["fork"] == "BlockingIOError"
    assert done["connect"] in {"OSError", "ConnectionRefusedError"}
    if done["network"] == "True":
        assert done["connect"] == "OSError"  # not refused: there is no network to refuse
