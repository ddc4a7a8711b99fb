"""bench/gpu.sh: what it names is there, where it cannot measure it says so at once, and a stage costs no other one.

Its two calls are run with a stand-in for the machine's interpreter, and with one for the sanitizer.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from bench import gpu_calls
from bench import profile_steps as profile
from bench.gpu_stages import CALLS, HEADS_OF_32, PARITY, Place
from bench.result_files import parse_results
from concord.train import doctor
from concord.train.flags import build_parser

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "bench" / "gpu.sh"
STAND_IN = Path(__file__).with_name("gpu_stand_in.py")
USAGE = "usage: bash bench/gpu.sh first|all OUT [SECONDS]"


def run(*arguments, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True
    )


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_what_a_gpu_machine_need_not_have_is_not_imported():
    """The parity of `all` is collected, and the prediction of `first` made, without it."""
    without = ("sentence_transformers", "matplotlib", "sklearn", "datasets", "onnx", "optuna", "mlflow", "peft")
    calls = {
        "pytest": ["--collect-only", "-q", "-p", "no:cacheprovider", *PARITY],
        "bench.predicted": ["--json", "--model", "MiniLM", "--tasks", "3"],
    }
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    for module, arguments in calls.items():
        code = f"import sys, runpy; sys.modules.update(dict.fromkeys({without})); sys.argv[1:] = {arguments};"
        code += f"runpy.run_module({module!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


class Machine:
    """A stand-in for a GPU machine."""

    def __init__(self, folder):
        self.folder, self.out = folder, folder / "out"
        (folder / "bin").mkdir()
        self.python = executable(
            folder / "python",
            f'#!/bin/sh\nif [ "$2" = bench.gpu_calls ]; then exec {sys.executable} "$@"; fi\n'
            f'exec {sys.executable} -S -E {STAND_IN} {folder} "$@"\n',
        )
        tool = '#!/bin/sh\nexport STAND_IN_TOOL="$2"\nshift 4\nexec "$@"\n'
        self.sanitizer = executable(folder / "bin" / "compute-sanitizer", tool)

    @property
    def environment(self):
        return os.environ | {"PYTHON": str(self.python), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def call(self, name, faults=None, seconds=None):
        """Run a call; faults: words of a command -> what it does, as the stand-in has it."""
        (self.folder / "faults.json").write_text(json.dumps(faults or {}))
        arguments = [name, str(self.out), *([str(seconds)] if seconds else [])]
        began = time.monotonic()
        found = subprocess.run(["bash", str(SCRIPT), *arguments], env=self.environment, capture_output=True, text=True)
        found.seconds = time.monotonic() - began
        return found

    @property
    def summary(self):
        return (self.out / "summary.txt").read_text().splitlines()

    def line(self, stage):
        """The stage's line in the summary, and those below it."""
        start = next(index for index, line in enumerate(self.summary) if line.split(" ")[0] == stage)
        below = self.summary[start + 1 :]
        count = next((index for index, line in enumerate(below) if not line.startswith("    ")), len(below))
        return self.summary[start : start + 1 + count]

    def events(self):
        """(event, command, seconds) in the order of time."""
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return sorted(map(json.loads, lines), key=lambda entry: entry[2])

    def files(self):
        return sorted(str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file())

    def logs(self):
        with tarfile.open(self.out / "logs.tar.gz") as packed:
            return {entry.name: packed.extractfile(entry).read() for entry in packed if entry.isfile()}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def named_stages(call):
    phases = CALLS[call][0](Place(python="python", work=Path("work"), results=Path("results"), data="demo", cores=16))
    return [stage for phase in phases for lane in phase.lanes for stage in lane]


def test_the_tests_and_benchmarks_that_it_names_exist():
    text = (ROOT / "bench" / "gpu_stages.py").read_text()
    named = re.findall(r"((?:tests|bench)/[\w/]+\.py)(?:::(\w+))?", text)
    assert len(named) > 15
    for path, function in named:
        text = (ROOT / path).read_text()
        assert not function or f"\ndef {function}(" in text, f"{path}::{function}"


def test_the_modules_that_it_runs_exist():
    for stage in [*named_stages("first"), *named_stages("all")]:
        module = stage.command[stage.command.index("-m") + 1]
        assert module == "pytest" or (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def test_the_flags_that_it_gives_are_known():
    parsers = {
        "train.run": build_parser(),
        "train.doctor": doctor._parser(),
        "bench.profile_steps": profile._parser(),
    }
    for stage in [*named_stages("first"), *named_stages("all")]:
        module, *arguments = stage.command[stage.command.index("-m") + 1 :]
        if module in parsers:
            parsers[module].parse(arguments)


def test_names_differ_within_a_call_and_can_be_files():
    for call in CALLS:
        names = [stage.name for stage in named_stages(call)]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


@pytest.mark.slow
def test_small_attention_of_heads_of_32_is_short_and_long_in_bf16(monkeypatch):
    path, _, expression = HEADS_OF_32
    code = "import torch, pytest, sys; torch.cuda.is_available = lambda: True\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, path, "-k", expression, "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    chosen = re.findall(r"test_the_kernels_are_as_accurate_as_torch\[lengths(\d+)-\d-32-0\.2-dtype2\]", found)
    # Of the lengths some fit a short tile, and others do not.
    assert {"0", "7", "9"} <= set(chosen), found
    assert "test_first_tokens_are_as_accurate_as_torch[lengths0-1-32-0.2-dtype2]" in found


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device_it_ends_in_one_line(tmp_path):
    found = run("first", tmp_path / "out", PYTHON=sys.executable)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: torch ")
    assert line.endswith("finds no CUDA device")
    assert (tmp_path / "out" / "summary.txt").read_text().splitlines() == [line]


def test_a_package_that_is_missing_ends_it_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pytest_benchmark'] = None\n")
    # The script sets PYTHONPATH anew: an interpreter that puts its own folder in front stands for a bare machine.
    python = f'#!/bin/sh\nPYTHONPATH={tmp_path}:$PYTHONPATH exec {sys.executable} "$@"\n'
    found = run("all", tmp_path / "out", PYTHON=str(executable(tmp_path / "python", python)))
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert "pytest_benchmark" in line
    assert "python -m bench.carry" in line


def test_an_interpreter_that_is_not_there_ends_it(tmp_path):
    assert run("all", tmp_path / "out", PYTHON=str(tmp_path / "none")).returncode == 127


@pytest.mark.parametrize(
    "arguments", [[], ["first"], ["second", "OUT"], ["all", "OUT", "soon"], ["all", "OUT", "9", "9"]]
)
def test_called_otherwise_it_says_how_it_is_called(arguments, tmp_path):
    found = run(*[str(tmp_path / "out") if own == "OUT" else own for own in arguments])
    assert found.returncode == 2
    assert found.stderr.splitlines() == [USAGE]


@pytest.mark.slow
def test_the_first_call_judges_compares_and_profiles(machine):
    found = machine.call("first")
    assert found.returncode == 0, found.stdout + found.stderr
    began = {command: when for event, command, when in machine.events() if event == "begins"}
    ended = {command: when for event, command, when in machine.events() if event == "ends"}

    def moment(times, *words):
        return next(when for command, when in times.items() if all(word in command for word in words))

    for model in ("bert-base", "minilm"):
        words = ["train.doctor", f"--model {model}"]
        assert moment(ended, *words, "--amp bf16") < moment(began, *words, "--amp off")
    profiled = moment(began, "bench.profile_steps", "--model BERT-base")
    assert all(when < profiled for command, when in ended.items() if "bench.profile_steps" not in command)
    assert moment(ended, "profile_steps", "BERT-base") < moment(began, "profile_steps", "MiniLM")
    memcheck = next(command for command in began if command.startswith("memcheck pytest"))
    assert HEADS_OF_32[2] in memcheck
    assert machine.files() == [
        "environment.json",
        "logs.tar.gz",
        "results/profile-BERT-base.json",
        "results/profile-MiniLM.json",
        "run-summary.json",
        "summary.txt",
    ]
    assert machine.summary[0] == "Stand-in GPU; torch 2.11.0; commit 0123456789abcdef"
    assert [line.split()[0] for line in machine.summary[1:3]] == ["doctor-bert-base-bf16", "doctor-bert-base-fp32"]
    assert re.search(r"passed +0 of \d+ s  13 of 13 ops passed", machine.summary[1])
    assert machine.line("profile-MiniLM")[1:] == ["    class  ms a step", "    gaps  0.1"]
    assert machine.summary[-1].startswith("first: no fault found, ")
    assert found.stdout.endswith("\n".join(machine.summary) + "\n")
    assert b"13 of 13" in machine.logs()["logs/doctor-minilm-fp32.log"]


@pytest.mark.slow
def test_the_other_call_measures_alone_what_it_has_tested_and_leaves_one_file_of_results(machine):
    found = machine.call("all")
    assert found.returncode == 0, found.stdout + found.stderr
    running, order = set(), []
    for event, command, _ in machine.events():
        if "--parity" in command or "train.run" in command:
            assert event == "ends" or not running, (command, running)
            order += [command] if event == "begins" else []
        if "gpu_environment" not in command:
            (running.add if event == "begins" else running.discard)(command)
    words = [re.search(r"bench/test_\w+\.py(?: -k \S+)?$|train\.run", command)[0] for command in order]
    assert words[:4] == [
        *(f"bench/test_training_step.py -k {model}" for model in ("BERT-base", "MiniLM")),
        *(f"bench/test_kernels.py -k {model}" for model in ("BERT-base", "MiniLM")),
    ]
    assert words.index("train.run") > words.index("bench/test_overheads.py")
    assert len(words) == 13
    left_out = {
        "test_cpu_steps.py",
        "test_encode.py",
    }  # the one is a CPU's alone, the other is not worth the call's time
    for file in (ROOT / "bench").glob("test_*.py"):
        assert file.name in left_out or any(f"bench/{file.name}" in own for own in words)
    environment, logs, results, *others = machine.files()
    assert [environment, logs, *others] == ["environment.json", "logs.tar.gz", "run-summary.json", "summary.txt"]
    merged = parse_results((machine.out / results).read_bytes(), results)
    assert len(merged.rows) == 12
    assert merged.command == "bash bench/gpu.sh all OUT"
    assert machine.line("surgery-MiniLM")[0].endswith("tasks 3: 2.00 ms (50% of the limit)")
    assert not any("rehearsal" in line for line in machine.summary)
    assert {"logs/rehearsal-step.log", "parity/tests.test_a.xml"} <= set(machine.logs())


@pytest.mark.slow
def test_a_stage_that_fails_fails_the_call_and_no_other_stage(machine):
    found = machine.call("first", {"--model minilm --amp bf16": {"exit": 1, "say": "GELU   FAILED  its error"}})
    assert found.returncode == 1
    assert re.match(r"doctor-minilm-bf16 +failed \(exit code 1\)", machine.line("doctor-minilm-bf16")[0])
    assert sum(" passed " in line for line in machine.summary) == len(named_stages("first")) - 1
    assert machine.summary[-1].startswith("first: at fault, ")


@pytest.mark.slow
def test_a_process_that_the_device_has_poisoned_costs_its_own_results_alone(machine):
    fault = {"abort": True, "say": "CUDA error: an illegal memory access was encountered"}
    found = machine.call("all", {"bench/test_surgery.py -k MiniLM": fault})
    assert found.returncode == 1
    line, *_ = machine.line("surgery-MiniLM")
    assert re.match(r"surgery-MiniLM +failed \(SIGABRT\).*illegal memory access", line)
    (results,) = [name for name in machine.files() if name.startswith("results/")]
    assert len(parse_results((machine.out / results).read_bytes(), results).rows) == 11


@pytest.mark.slow
def test_a_run_that_falls_back_fails_the_call_and_the_summary_says_how(machine):
    said = "kernels    triton; LayerNorm from torch: its check failed here, error 0.3, allowed 0.03"
    found = machine.call("first", {"train.run": {"say": said}})
    assert found.returncode == 1
    line, *below = machine.line("training")
    assert " passed " in line
    assert f"    fell back: {said}" in below


@pytest.mark.slow
def test_a_benchmark_that_falls_back_fails_the_call_too(machine):
    said = "..warning: no CUDA graphs from here on: out of memory"
    found = machine.call("all", {"bench/test_training_step.py -k BERT-base": {"say": said}})
    assert found.returncode == 1
    assert f"    fell back: {said}" in machine.line("step-BERT-base")


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "code"), [("memcheck", 1), ("racecheck", 0)])
def test_memcheck_fails_the_call_and_racecheck_is_told(machine, tool, code):
    fault = {"exit": 3, "say": "========= Invalid __global__ read of size 4 bytes"}
    assert machine.call("all", {f"{tool} pytest": fault}).returncode == code
    line, below = machine.line(tool)
    assert re.match(rf"{tool} +failed \(exit code 3\)", line)
    assert below == "    ========= Invalid __global__ read of size 4 bytes"


@pytest.mark.slow
@pytest.mark.skipif(Path("/usr/local/cuda/bin/compute-sanitizer").exists(), reason="this machine has the sanitizer")
def test_a_machine_without_the_sanitizer_is_told_and_no_fault(machine):
    machine.sanitizer.unlink()
    assert machine.call("first").returncode == 0
    assert machine.line("memcheck") == ["memcheck                 left out (no compute-sanitizer on this machine)"]


@pytest.mark.slow
def test_what_hangs_is_cut_off_in_time_and_the_rest_is_left(machine):
    hangs = {"sleep": 60, "say": "    GELU: some  passed  error 1e-7 of 1e-6"}
    found = machine.call("first", {"--model bert-base --amp bf16": hangs}, seconds=14)
    assert found.seconds < 14
    assert found.returncode == 0
    line, *_ = machine.line("doctor-bert-base-bf16")
    assert re.match(r"doctor-bert-base-bf16 +cut off +\d of \d s  1 cases judged, 0 failed", line)
    for stage in ("doctor-minilm-fp32", "profile-BERT-base", "profile-MiniLM"):
        assert " passed " in machine.line(stage)[0] or "left out (the time is over)" in machine.line(stage)[0]
    assert " passed " in machine.line("doctor-bert-base-fp32")[0]
    assert "logs/doctor-bert-base-bf16.log" in machine.logs()


@pytest.mark.slow
def test_where_no_time_is_left_nothing_is_begun_and_that_is_said(machine):
    found = machine.call("all", seconds=9)
    assert found.returncode == 0
    assert all("left out (the time is over)" in machine.line(f"{name}-MiniLM")[0] for name in ("step", "kernels"))
    assert "logs.tar.gz" in machine.files()


@pytest.mark.slow
def test_a_check_of_the_machine_that_hangs_ends_it_in_one_line(machine):
    found = machine.call("first", {"bench.gpu_environment": {"sleep": 60}}, seconds=10)
    assert found.returncode == 2
    assert found.stderr.splitlines() == ["error: the check of this machine did not end within 2 s"]
    assert machine.files() == ["summary.txt"]


def test_long_logs_lose_their_middle_and_long_traces_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_calls, "_MOST_LOG", 20)
    monkeypatch.setattr(gpu_calls, "_MOST_TRACE", 5)
    for folder in ("logs", "parity"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "long.log").write_text("first" + "." * 500 + "last")
        (tmp_path / folder / "short.log").write_text("all of it")
        (tmp_path / folder / "long.json.gz").write_bytes(b"123456")
        (tmp_path / folder / "short.json.gz").write_bytes(b"1234")
    gpu_calls.shorten_logs(tmp_path)
    for folder in ("logs", "parity"):
        found = {path.name: path.read_text() for path in (tmp_path / folder).iterdir()}
        assert found == {"long.log": "first.....\n[...]\n......last", "short.log": "all of it", "short.json.gz": "1234"}


@pytest.mark.slow
def test_a_stage_of_which_nothing_comes_is_no_success(machine, monkeypatch, capsys):
    (machine.folder / "faults.json").write_text("{}")
    monkeypatch.setenv("PYTHON", str(machine.python))
    monkeypatch.setattr(gpu_calls.Call, "run", lambda self, phases: None)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert gpu_calls.main(["first", str(machine.out)]) == 1
    assert capsys.readouterr().out.splitlines()[-2].startswith("not yet: doctor-bert-base-bf16, ")


@pytest.mark.slow
def test_stopped_from_outside_it_packs_what_there_is(machine):
    (machine.folder / "faults.json").write_text(json.dumps({"train.doctor": {"sleep": 60, "say": "so far"}}))
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "first", str(machine.out)], env=machine.environment, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: "captured-MiniLM" in "\n".join(machine.summary) if machine.out.exists() else False)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1
    assert machine.summary[-1].startswith("first: stopped, ")
    assert "cut off" in machine.line("doctor-minilm-bf16")[0]
    assert machine.logs()["logs/doctor-minilm-bf16.log"] == b"so far\n"


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise AssertionError("it has not come")
