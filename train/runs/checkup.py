"""Every kernel judged on this machine, and the report of it that `train.doctor` prints."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from concord.bert.config import SIZES, BertConfig
from concord.bert.errors import InputError
from concord.kernels.checks.shapes import DTYPES, Shapes, ops_of
from concord.kernels.dispatch import interpreted, launches_native, launches_triton, takes_triton
from concord.kernels.ops import OPS
from concord.kernels.surgery.plan import SurgerySettings
from concord.train.checks.children import CheckNotDone, Entry, judge_ops
from concord.train.checks.self_check import describe_failure, driver_version, verdict_folder
from concord.train.outputs.names import CONFIG_FILE
from concord.train.outputs.provenance import commit, versions
from concord.train.steps.precision import Precision, choose_kernels, choose_precision

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check_up(
    *,
    model: str,
    tasks: int,
    longest: int,
    amp: str | None,
    device: str,
    ops: Sequence[str] | None,
    cases: bool,
    seconds: float | None,
    jobs: int | None,
) -> int:
    """Print the report; 0, or 1 where an op has failed. InputError where nothing can be judged.

    Each argument is the flag of `train.doctor` of the same name.
    """
    precision = choose_precision(device, amp or ("auto" if device != "cpu" and torch.cuda.is_available() else "off"))
    place = precision.device
    print_machine(precision)
    taken = choose_kernels("triton" if interpreted() and place.type == "cpu" else "auto", precision)
    print(f"kernels    {taken}")
    native = launches_native(place)
    if not native and not launches_triton(place):
        print("           there is nothing to judge; TRITON_INTERPRET=1 has them judged in Triton's interpreter")
        return 0
    shapes = shapes_of_model(model, tasks, longest, precision)
    shapes = shapes.for_native() if native else shapes.on(place)
    launched = ops or [*ops_of(shapes), "multi_tensor"]
    judged = [op for op in launched if (OPS[op].native if native else takes_triton(op, place))]
    print(
        f"shapes     {model}: {shapes.hidden} columns, {shapes.tasks} tasks, {shapes.tokens} tokens, sequences "
        f"up to {shapes.longest}, task gradients in {shapes.gradients}"
    )
    options = {
        "kernels": "native" if native else "triton",
        "seconds": seconds,
        "on_verdict": _print_case if cases else lambda entry: None,
    }
    try:
        verdicts = judge_ops(judged, shapes, place, isolated=True, jobs=jobs, **options)
        failed = {entry["op"] for entry in verdicts if not entry["passed"]}
        if place.type == "cuda":  # one at a time, and already compiled
            timed = judge_ops([op for op in judged if op not in failed], shapes, place, timed=True, jobs=1, **options)
            verdicts = [*timed, *(entry for entry in verdicts if entry["op"] in failed)]
            failed |= {entry["op"] for entry in timed if not entry["passed"]}
    except CheckNotDone as error:
        raise InputError(f"nothing can be judged on this device: {error}") from None
    print()
    for op in judged:
        own = [entry for entry in verdicts if entry["op"] == op]
        print(f"{OPS[op].title:<36} {_judgement(own)}")
    print(f"\n{len(judged) - len(failed)} of {len(judged)} ops passed, in {len(verdicts)} cases")
    return int(bool(failed))


def print_machine(precision: Precision) -> None:
    """Print what the verdicts hold for."""
    device = precision.device
    print(f"device     {precision.device_name}")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        print(
            f"           sm_{properties.major}{properties.minor}, {properties.multi_processor_count} multiprocessors, "
            f"{properties.total_memory / 2**30:.1f} GiB"
        )
        print(f"driver     {driver_version()}")
    print(f"machine    {platform.platform()}, {os.cpu_count()} cores")
    print(f"versions   {', '.join(f'{name} {version}' for name, version in versions().items())}")
    print(f"commit     {commit() or 'unknown'}")
    print(f"verdicts   of runs are kept in {verdict_folder()}")
    print(f"precision  {precision.name} ({precision.reason})")


def shapes_of_model(model: str, tasks: int, longest: int, precision: Precision) -> Shapes:
    """What a run with default settings launches with a model: a name in `SIZES`, or a directory with its config.json.

    Raises InputError where it is neither.
    """
    if model in SIZES:
        return _shapes(SIZES[model], tasks, longest, precision)
    if not (Path(model) / CONFIG_FILE).is_file():
        raise InputError(f"--model {model}: expected one of {', '.join(SIZES)}, or a folder with a {CONFIG_FILE}")
    return _shapes(BertConfig.read(Path(model) / CONFIG_FILE), tasks, longest, precision)


def _shapes(model: BertConfig, tasks: int, longest: int, precision: Precision) -> Shapes:
    name = _NAMES[precision.compute_dtype]
    settings = SurgerySettings(method="pcgrad", max_norm=1.0, scaling=precision.scaling)
    return Shapes(
        hidden=model.hidden_size,
        inner=model.intermediate_size,
        attention=((model.num_attention_heads, model.head_size),),
        words=model.vocab_size,
        positions=model.max_position_embeddings,
        segments=model.type_vocab_size,
        tokens=2816,
        embedding=model.embedding_width,
        longest=min(longest, model.max_length),
        sequences=32 * tasks,
        tasks=tasks,
        blocks=model.num_hidden_layers + 2,
        heads=tasks,
        compute=name,
        gradients=name,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        surgery=asdict(settings),
        vocabulary=True,
    )


def _print_case(entry: Entry) -> None:
    """Print a verdict at once, for whoever reads the report of a check that was cut off."""
    lines = [f"    {OPS[entry['op']].title}: {entry['shapes']:<72} {_judgement([entry])}"]
    lines += [f"        {line}" for line in entry.get("output", "").splitlines()]
    # In one piece: verdicts come from several threads.
    print("\n".join(lines) + "\n", end="", flush=True)


def _judgement(entries: Sequence[Entry]) -> str:
    """What came of an op's cases: of the worst of them, and the time of the longest."""
    bad = [entry for entry in entries if not entry["passed"]]
    if bad:
        where = f" ({bad[0]['shapes']})" if bad[0]["shapes"] else ""
        return f"FAILED  {describe_failure(bad[0])}{where}"
    worst = max(entries, key=lambda entry: entry["error"] / (entry["allowed"] or 1))
    text = f"passed  error {worst['error']:.1e} of {worst['allowed']:.1e}"
    timed = [entry for entry in entries if "seconds" in entry]
    if timed:
        longest = max(timed, key=lambda entry: entry["seconds"])
        text += f"  {longest['seconds'] * 1e6:>9.1f} us"
        if longest["share"] is not None:
            text += f"  {longest['share']:>4.0%} of the limit"
    untimed = [entry["not_timed"] for entry in entries if "not_timed" in entry]
    return text + (f"  not timed: {untimed[0]}" if untimed else "")
