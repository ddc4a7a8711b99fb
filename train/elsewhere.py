"""What may have been meant by a flag that there is not: what other trainers call by it, or the nearest names."""

import difflib
from collections.abc import Sequence

# What other trainers call a flag -> what it is here.
ELSEWHERE = {
    "--lr": "--learning-rate",
    "--lr-head": "--head-learning-rate",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--num-train-epochs": "--epochs",
    "--n-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--accumulate",
    "--auto-find-batch-size": "--accumulate auto",
    "--micro-batch-size": "--micro-batch",
    "--model-name-or-path": "--model",
    "--pretrained": "--model",
    "--max-seq-length": "--max-length",
    "--warmup-ratio": "--warmup",
    "--warmup-steps": "--warmup",
    "--lr-scheduler-type": "--schedule",
    "--scheduler": "--schedule",
    "--max-grad-norm": "--clip",
    "--grad-clip": "--clip",
    "--fp16": "--amp fp16",
    "--bf16": "--amp bf16",
    "--eval-steps": "--evaluate-every",
    "--logging-steps": "--log-every",
    "--save-steps": "--save-every",
    "--resume-from-checkpoint": "--resume",
    "--use-gpu": "--device cuda",
    "--use-cpu": "--device cpu",
    "--no-cuda": "--device cpu",
    "--hidden-dropout-prob": "--hidden-dropout",
    "--pcgrad": "--surgery pcgrad",
    "--gradvac": "--surgery gradvac",
    "--task": "--tasks",
    "--data-dir": "--data",
    "--dataset": "--data",
    "--dataset-name": "--train-file",
    "--text-column-name": "--text-column",
    "--text-column-names": "--text-column",
    "--label-column-name": "--label-column",
    "--metric-for-best-model": "--best-metric",
    "--early-stopping-patience": "--early-stopping",
    "--patience": "--early-stopping",
    "--class-weight": "--class-weights",
}


def meant(flag: str, flags: Sequence[str]) -> str:
    """What may have been meant by a flag that there is not: what other trainers call by it, or the nearest names."""
    plain = "--" + flag.lstrip("-").replace("_", "-").lower()
    if ELSEWHERE.get(plain, "").split(" ")[0] in flags:
        return f": here it is {ELSEWHERE[plain]}"
    near = difflib.get_close_matches(plain, flags, n=3, cutoff=0.6)
    near += [name for name in flags if plain.strip("-") in name and len(plain) > 4 and name not in near][:3]
    if not near:
        return ": there is nothing of the kind, --help lists the flags"
    return f": did you mean {' or '.join(near[:3])}?"
