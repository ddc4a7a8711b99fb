"""The stages of the two calls of `bench/gpu.sh`: what is run on a GPU, how long, and side by side with what."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import gpu_digests as digests
from bench.parity import MODULES
from bench.stages import SECONDS, Lane, Phase, Stage

# A small test of each op; of those whose programs share memory, the second list.
CHECKED = (
    "tests/kernels/test_adamw.py::test_each_block_takes_its_own_step_size_and_shrinks_by_its_own_factor",
    "tests/kernels/test_dropout.py::test_the_bits_that_kernels_draw_are_those_of_the_mask",
    "tests/kernels/test_gather.py::test_chosen_sequences_follow_each_other_and_zeros_follow_them",
)
SHARED = (
    "tests/kernels/test_attention_kernels.py::test_what_is_not_finite_in_other_tiles_and_in_padding_reaches_nobody",
    "tests/kernels/test_attention_kernels.py::test_rows_after_the_last_sequence_and_empty_sequences_give_zeros",
    "tests/kernels/test_attention_kernels.py::test_first_tokens_of_empty_sequences_and_rows_after_the_last_give_zeros",
    "tests/kernels/test_embedding.py::test_rows_that_do_not_occur_are_zero",
    "tests/kernels/test_gelu.py::test_task_gradients_may_be_bf16",
    "tests/kernels/test_gram.py::test_a_chunk_that_no_task_touched_is_not_read",
    "tests/kernels/test_layer_norm.py::test_a_second_micro_batch_adds_to_the_task_gradients",
    "tests/kernels/test_linear_cross_entropy.py::test_task_gradients_may_be_of_low_precision",
    "tests/kernels/test_multi_tensor.py::test_a_task_that_does_not_reach_a_parameter_counts_as_zeros",
    "tests/kernels/test_surgery.py::test_clipping_brings_the_norm_of_the_whole_update_to_its_limit",
    "tests/kernels/test_task_products.py::test_many_rows_of_small_matrices_are_divided",
)
# sentence-transformers, which one module of parity wants, is no part of what a GPU machine needs; what rests on that
# module is not measured there.
PARITY = tuple(module for module in MODULES if module != "tests/bench/test_encoders.py")
# Attention of heads of 32 in bf16, the third of the dtypes on a GPU: short and long, forward and backward, dropout.
HEADS_OF_32 = ("tests/kernels/test_attention_kernels.py", "-k", "32 and 0.2 and dtype2")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a call runs.

    python: the interpreter; work: folder for what does not stay; results: folder for what does; data: of the training
    run, a folder or demo; cores: of this machine.
    """

    python: str
    work: Path
    results: Path
    data: str
    cores: int

    def module(self, name: str, *arguments: object) -> list[str]:
        """The command of a Python module."""
        return [self.python, "-m", name, *map(str, arguments)]


def first_call(place: Place) -> list[Phase]:
    """What tells most about kernels that no GPU has seen yet: each judged apart, and whole steps taken to pieces."""
    shares = {"bert-base": max(1, place.cores // 2), "minilm": max(1, place.cores // 4)}

    def doctor(model: str, amp: str, seconds: float) -> Stage:
        name = f"doctor-{model}-{'fp32' if amp == 'off' else amp}"
        flags = ("--model", model, "--amp", amp, "--jobs", shares[model], "--cases", "--seconds", 75)
        return Stage(name=name, command=place.module("train.doctor", *flags), seconds=seconds, digest=digests.doctor)

    def captured(model: str, seconds: float) -> Stage:
        command = place.module("bench.captured_steps", "--model", model)
        return Stage(name=f"captured-{model}", command=command, seconds=seconds, digest=digests.last(4), watched=True)

    def profile(model: str, seconds: float) -> Stage:
        out, trace = place.results / f"profile-{model}.json", place.work / "logs" / f"trace-{model}.json.gz"
        command = place.module("bench.profile_steps", "--model", model, "--steps", 10, "--out", out, "--trace", trace)
        return Stage(name=f"profile-{model}", command=command, seconds=seconds, digest=digests.whole(24), watched=True)

    judged = [
        [doctor("bert-base", "bf16", 90), doctor("bert-base", "off", 45)],
        [doctor("minilm", "bf16", 90), doctor("minilm", "off", 45)],
        [_sanitize(place, "memcheck", HEADS_OF_32, 135)],
        # These compile what is profiled then.
        [captured("BERT-base", 135)],
        [captured("MiniLM", 85), _training(place, 50, "--data", "demo", "--max-steps", 30, "--dev-examples", 200)],
    ]
    return [
        Phase(seconds=135, lanes=judged),
        Phase(seconds=50, lanes=[[profile("BERT-base", 28), profile("MiniLM", 22)]]),
    ]


def whole_call(place: Place) -> list[Phase]:
    """Parity, the sanitizer, every benchmark and a training run.

    While parity is tested the benchmarks are rehearsed: what they compile, they find in the caches then.
    """
    limits = ("--jobs", place.cores * 5 // 8 + 1, "--seconds", SECONDS)
    parity = Stage(
        name="parity",
        command=place.module("bench.parity", *PARITY, "--out", place.work / "parity", *limits),
        seconds=140,
        digest=digests.parity,
    )
    side_by_side: list[Lane] = [
        [parity],
        [_sanitize(place, "memcheck", (*SHARED, *CHECKED), 120)],
        [_sanitize(place, "racecheck", SHARED, 120, required=False)],
        [_rehearsal(place, "step", "bench/test_training_step.py", "-k", "concord")],
        [_rehearsal(place, "compiled", "bench/test_training_step.py", "-k", "compiled or graphs")],
        [_rehearsal(place, "kernels-MiniLM", "bench/test_kernels.py", "-k", "MiniLM")],
        [_rehearsal(place, "kernels-BERT-base", "bench/test_kernels.py", "-k", "BERT-base")],
        [_rehearsal(place, "others", *_OTHERS, "-k", "concord or tokenising")],
    ]
    alone: Lane = [
        _benchmark(place, "step", 55, "bench/test_training_step.py", model="BERT-base"),
        _benchmark(place, "step", 32, "bench/test_training_step.py", model="MiniLM"),
        _benchmark(place, "kernels", 30, "bench/test_kernels.py", model="BERT-base"),
        _benchmark(place, "kernels", 26, "bench/test_kernels.py", model="MiniLM"),
        _benchmark(place, "surgery", 18, "bench/test_surgery.py", model="BERT-base"),
        _benchmark(place, "surgery", 16, "bench/test_surgery.py", model="MiniLM"),
        _benchmark(place, "evaluation", 12, "bench/test_evaluation.py", model="BERT-base"),
        _benchmark(place, "evaluation", 10, "bench/test_evaluation.py", model="MiniLM"),
        _benchmark(place, "data", 10, "bench/test_data.py"),
        _benchmark(place, "overheads", 14, "bench/test_overheads.py"),
        _training(place, 25, "--data", place.data, "--skip-bad-rows", "--max-steps", 600),
        _benchmark(place, "step", 16, "bench/test_training_step.py", model="BERT-large"),
        _benchmark(place, "surgery", 8, "bench/test_surgery.py", model="BERT-large"),
    ]
    return [
        Phase(seconds=140, lanes=side_by_side),
        Phase(seconds=sum(stage.seconds for stage in alone), lanes=[alone]),
    ]


CALLS = {"first": (first_call, 200.0), "all": (whole_call, 420.0)}
"""Name of a call -> its phases in a place, and the seconds that it has."""

_OTHERS = ("bench/test_surgery.py", "bench/test_evaluation.py", "bench/test_data.py")


def find_sanitizer() -> str:
    """The path of compute-sanitizer, "" where it is not on this machine."""
    return shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer") or ""


def _sanitize(place: Place, tool: str, tests: Sequence[str], seconds: float, *, required: bool = True) -> Stage:
    """Every tensor lies in memory of its own, so that what lies beside it is nobody's."""
    sanitizer = find_sanitizer()
    command = [sanitizer, "--tool", tool, "--error-exitcode", "3"]
    return Stage(
        name=tool,
        command=[*command, *place.module("pytest", "-q", "-p", "no:cacheprovider", *tests)],
        seconds=seconds,
        at_most=seconds,
        digest=digests.sanitizer,
        required=required,
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        lacks="" if sanitizer else "no compute-sanitizer on this machine",
    )


def _pytest(place: Place, folder: Path, *arguments: object) -> list[str]:
    # What a benchmark says of a fallback is seen only where pytest does not keep its output.
    flags = ("--benchmark-only", "-q", "-s", "-rsfE", "-p", "no:cacheprovider", "--benchmark-columns=median,min,max")
    return place.module("pytest", *flags, "--results", folder, *arguments)


def _rehearsal(place: Place, name: str, *arguments: str) -> Stage:
    """Benchmarks whose results are thrown away."""
    return Stage(
        name=f"rehearsal-{name}",
        command=_pytest(place, place.work / "rehearsal", *arguments),
        seconds=120,
        at_most=120,
        digest=digests.tests,
        required=False,
        shown=False,
    )


def _benchmark(place: Place, name: str, seconds: float, path: str, *, model: str = "") -> Stage:
    stem = f"{name}-{model}" if model else name
    folder = place.work / "results" / stem
    chosen = ("-k", model) if model else ()
    return Stage(
        name=stem,
        command=_pytest(place, folder, "--parity", place.work / "parity", path, *chosen),
        seconds=seconds,
        digest=digests.results(folder),
        watched=True,
    )


def _training(place: Place, seconds: float, *arguments: object) -> Stage:
    flags = ("--amp", "--surgery", "pcgrad", "--epochs", 1, "--evaluate-every", 0, "--out", place.work / "run")
    return Stage(
        name="training",
        command=place.module("train.run", *flags, *arguments),
        seconds=seconds,
        digest=digests.training,
        watched=True,
    )


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
