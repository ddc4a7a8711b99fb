"""Stages share the time that there is; what is cut off ends with all its processes and takes nobody else's time."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from bench.stages import (
    CUT_OFF,
    FAILED,
    FALLBACK,
    LEFT_OUT,
    PASSED,
    SECONDS,
    Call,
    Phase,
    Stage,
    describe_code,
    end_group,
    read_ends,
)


def stage(name, script, seconds=1.0, **more):
    return Stage(name=name, command=["sh", "-c", script], seconds=seconds, digest=str.splitlines, **more)


@pytest.fixture
def run(tmp_path):
    """Runs phases, given as (seconds, lanes), within some seconds: name -> outcome, in the order of the ends."""

    def run(seconds, *phases):
        found = {}
        call = Call(time.monotonic() + seconds, tmp_path, tmp_path, lambda own: found.setdefault(own.stage.name, own))
        call.run([Phase(seconds=share, lanes=lanes) for share, lanes in phases])
        return found

    return run


def test_a_stage_tells_what_came_of_it(run, tmp_path):
    found = run(
        9, (1, [[stage("good", "echo one; echo two >&2"), stage("bad", "exit 4"), stage("ill", "kill -SEGV $$")]])
    )
    assert [(own.how, own.why) for own in found.values()] == [
        (PASSED, ""),
        (FAILED, "exit code 4"),
        (FAILED, "SIGSEGV"),
    ]
    assert found["good"].lines == ["one", "two"]
    assert (tmp_path / "good.log").read_text() == "one\ntwo\n"
    assert [own.at_fault for own in found.values()] == [False, True, True]


def test_a_command_that_is_not_there_fails(run):
    missing = Stage(name="none", command=["/none/such"], seconds=1, digest=str.splitlines)
    assert run(9, (1, [[missing]]))["none"].why == "/none/such: No such file or directory"


@pytest.mark.slow
def test_what_is_not_required_or_cut_off_is_no_fault(run):
    found = run(3, (1, [[stage("other", "exit 1", required=False)], [stage("slow", "sleep 60")]]))
    assert [(own.how, own.at_fault) for own in found.values()] == [(FAILED, False), (CUT_OFF, False)]


def test_stages_of_a_lane_share_its_time_and_get_what_earlier_ones_leave(run):
    found = run(8, (1, [[stage("a", "true", 1), stage("b", "true", 2), stage("c", "true", 1)]]))
    assert found["a"].limit == pytest.approx(2, abs=0.3)
    assert found["b"].limit == pytest.approx(8 * 2 / 3, abs=0.6)
    assert found["c"].limit == pytest.approx(8, abs=0.9)


def test_a_phase_begins_when_the_one_before_has_ended_and_lanes_run_side_by_side(run, tmp_path):
    meet = "touch {0}; until [ -e {1} ]; do sleep 0.05; done; rm {1}"
    lanes = [[stage("x", meet.format("a", "b"))], [stage("y", meet.format("b", "a"))]]
    found = run(12, (1, lanes), (2, [[stage("z", "test ! -e a -a ! -e b")]]))
    assert [own.how for own in found.values()] == [PASSED] * 3
    assert found["x"].limit == pytest.approx(4, abs=0.3)
    assert found["z"].limit > 9


@pytest.mark.slow
def test_what_is_cut_off_leaves_the_later_ones_their_time(run):
    found = run(6, (1, [[stage("slow", "sleep 60", 1), stage("after", "sleep 0.2", 1)]]))
    assert [own.how for own in found.values()] == [CUT_OFF, PASSED]
    assert found["slow"].seconds == pytest.approx(3, abs=0.8)


@pytest.mark.slow
def test_a_limit_of_its_own_holds_too(run):
    assert run(9, (1, [[stage("slow", "sleep 60", at_most=1.0)]]))["slow"].seconds < 2


def test_without_time_or_its_tool_a_stage_is_left_out(run):
    found = run(0.5, (1, [[stage("late", "true"), stage("bare", "true", lacks="no such tool")]]))
    assert [(own.how, own.why) for own in found.values()] == [
        (LEFT_OUT, "the time is over"),
        (LEFT_OUT, "no such tool"),
    ]


def test_a_command_is_told_its_time(run):
    told = Stage(name="told", command=["echo", "--seconds", SECONDS], seconds=1, digest=str.splitlines)
    (line,) = run(30, (1, [[told]]))["told"].lines
    assert re.fullmatch(r"--seconds 2[34]", line)


def test_variables_of_its_own_are_its_own(run):
    found = run(9, (1, [[stage("one", "echo $ONE", environment={"ONE": "1"}), stage("two", "echo -$ONE-")]]))
    assert (found["one"].lines, found["two"].lines) == (["1"], ["--"])


@pytest.mark.slow
def test_what_does_not_listen_is_killed_and_so_are_the_children_of_what_has_ended(run, tmp_path):
    deaf = "trap '' TERM; (trap '' TERM; echo $$ > deaf; sleep 60) & while true; do sleep 0.1; done"
    found = run(5, (1, [[stage("deaf", deaf, at_most=1.0)], [stage("parent", "sleep 60 & echo $! > child")]]))
    assert found["deaf"].how == CUT_OFF
    assert found["deaf"].seconds < 4
    assert found["parent"].how == PASSED
    for name in ("deaf", "child"):
        wait_until_gone(int((tmp_path / name).read_text()))


def wait_until_gone(number):
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
            with open(f"/proc/{number}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.05)
    raise AssertionError(f"{number} is still there")


def test_a_process_that_cannot_be_ended_is_told(monkeypatch):
    monkeypatch.setattr("bench.stages._GRACE", 0.1)
    killed = []
    monkeypatch.setattr("os.killpg", lambda number, how: killed.append(how))
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        assert not end_group(process)
        assert killed[:2] == [signal.SIGTERM, signal.SIGKILL]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("said", "fell_back"),
    [
        ("warning: no CUDA graphs from here on: operation not permitted", True),
        ("...warning: no CUDA graphs from here on: operation not permitted", True),
        ("kernels    triton; LayerNorm from torch: its check failed here, error 0.3, allowed 0.03", True),
        ("kernels    triton, unchecked", True),
        ("warning: the kernels are not checked on this device: no memory", True),
        ("graphs     off: a torch reference reads numbers on the host", True),
        ("kernels    torch (reference expressions; Triton needs a CUDA device)", True),
        ("kernels    triton, unchecked as asked", False),
        ("model      minilm: MiniLM-L6 from CONCORD_MINILM=/somewhere, unchecked", False),
        ("graphs     on: a step is captured once a batch of its shape recurs, and replayed from then on", False),
        ("checked    40 cases of 11 ops, all passed (in 20 s)", False),
    ],
)
def test_lines_that_tell_of_a_fallback(said, fell_back):
    assert bool(FALLBACK.search(said)) == fell_back


def test_fallbacks_are_found_in_the_logs_that_are_watched(run):
    said = 'for i in one one 1 2 3; do echo "no CUDA graphs from here on: $i"; done'
    found = run(9, (1, [[stage("watched", said, watched=True, required=False), stage("other", said)]]))
    assert found["watched"].fallbacks == [f"no CUDA graphs from here on: {what}" for what in ("one", 1, 2)]
    assert found["watched"].at_fault
    assert not found["other"].at_fault


def test_a_digest_that_fails_costs_its_own_lines_alone(run):
    ill = Stage(name="ill", command=["echo", "one"], seconds=1, digest=lambda log: [log.split()[7]])
    found = run(9, (1, [[ill, stage("next", "true")]]))
    assert found["ill"].lines == ["its log is not understood: IndexError: list index out of range"]
    assert [own.how for own in found.values()] == [PASSED, PASSED]


def test_a_long_log_is_read_from_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.stages._MOST_READ", 10)
    path = tmp_path / "log"
    for text, expected in [("0123456789", "0123456789"), ("0123456789abc", "0123456789abc")]:
        path.write_text(text)
        assert read_ends(path) == expected
    path.write_text("0123456789" + "." * 50 + "abcdefghij")
    assert read_ends(path) == "0123456789\n[...]\nabcdefghij"


def test_exit_codes_in_words():
    assert (describe_code(3), describe_code(-6)) == ("exit code 3", "SIGABRT")
