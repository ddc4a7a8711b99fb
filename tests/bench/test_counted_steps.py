"""What a training step asks of a GPU: counted operations and compilations, frozen; predictions that add up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from concord.bert.errors import InputError
from concord.train.command import run_command

ROOT = Path(__file__).resolve().parent.parent.parent
# Kernels and torch's operations of a step by model and tasks. Fewer is better; more is to be seen when it happens.
OPERATIONS = {
    "MiniLM": {3: 224, 8: 295, 16: 407},
    "BERT-base": {3: 368, 8: 439, 16: 551},
    "BERT-large": {3: 656, 8: 727, 16: 839},
}
MOST = {3: 400, 8: 500, 16: 700}  # of BERT-base
COMPILATIONS = 34  # of the steps of two epochs on data of the course's lengths, MiniLM

pytestmark = pytest.mark.slow


def python(*arguments):
    """What a process that does not interpret Triton prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_operations_of_a_step_are_as_many_as_they_were():
    code = (
        "import json\n"
        "from bench.counted_steps import CountedStep\n"
        f"models, tasks = {list(OPERATIONS)}, {list(MOST)}\n"
        "print(json.dumps({m: {t: len(CountedStep(m, t).operations()) for t in tasks} for m in models}))"
    )
    found = {model: {int(t): n for t, n in counts.items()} for model, counts in json.loads(python("-c", code)).items()}
    assert found == OPERATIONS
    assert all(found["BERT-base"][tasks] <= most for tasks, most in MOST.items())


def test_a_run_on_data_of_many_lengths_compiles_no_kernel_for_each():
    code = (
        "from bench.counted_steps import CountedStep, shapes_of_the_course\n"
        "shapes = shapes_of_the_course()\n"
        "steps = [CountedStep('MiniLM', tokens=tokens, longest=longest) for tokens, longest in shapes]\n"
        "print(len(shapes), len(set().union(*(step.compilations() for step in steps))))"
    )
    shapes, compilations = map(int, python("-c", code).split())
    assert shapes >= 10
    assert compilations == COMPILATIONS


def test_the_command_counts_by_phase_kernel_and_line():
    *lines, last = python("-m", "bench.counted_steps", "--model", "MiniLM").splitlines()
    assert any("_gelu_forward_kernel" in line and "encoder forward" in line for line in lines)
    assert sum(int(line.split()[0]) for line in lines) == int(last.split()[0])


def test_a_prediction_is_no_shorter_than_its_floor_and_launches_add_up():
    *_, every, gaps = classes = json.loads(
        python("-m", "bench.predicted", "--json", "--model", "MiniLM", "--tasks", "3")
    )
    assert gaps["name"] == "gaps"
    assert every["launches"] >= 1
    assert all(own["predicted"] >= own["floor"] for own in classes)
    assert sum(own["launches"] for own in classes) == OPERATIONS["MiniLM"][3]


PROFILE = {
    "case": {"model": "MiniLM", "lengths": "course", "tasks": 3, "batch": 32, "dtype": "bf16"},
    "device": "NVIDIA A100",
    "host_launches": 1.0,
    "classes": [],
}


@pytest.mark.parametrize(
    "other",
    [
        {"case": PROFILE["case"] | {"batch": 2}},
        {"case": PROFILE["case"] | {"dtype": "fp32"}},
        {"case": PROFILE["case"] | {"lengths": "of my data"}},
        {"host_launches": None},
    ],
)
def test_a_profile_of_other_steps_does_not_stand_beside_the_prediction(tmp_path, other):
    from bench import predicted

    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE | other))
    with pytest.raises(InputError, match="expected lengths course, tasks 3, batch 32, dtype bf16 on a GPU"):
        predicted.read_measured(path)


def test_what_was_measured_stands_beside_the_prediction(tmp_path):
    profile = tmp_path / "profile.json"
    classes = [{"name": "GELU", "seconds": 1.5e-3}, {"name": "gaps", "seconds": 0.5e-3}]
    profile.write_text(json.dumps(PROFILE | {"classes": classes}))
    flags = ("--model", "MiniLM", "--tasks", "3", "--measured", str(profile))
    lines = python("-m", "bench.predicted", *flags).splitlines()
    assert "| measured on NVIDIA A100, ms |" in lines[2]
    assert next(line for line in lines if line.startswith("| GELU")).endswith("| 1.500 |")
    assert lines[-1].startswith("| all")
    assert lines[-1].endswith("| 2.000 |")


@pytest.mark.parametrize("text", ["", "{}", '{"case": {"model": "MiniLM"}, "classes": [{}]}'])
def test_another_file_is_refused_as_measured(tmp_path, text, capsys):
    from bench import predicted

    path = tmp_path / "profile.json"
    path.write_text(text)
    assert run_command(predicted.main, ["--model", "MiniLM", "--measured", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: expected what python -m bench.profile_steps" in line
