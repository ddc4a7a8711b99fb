"""Judge the cases of some ops in a process of its own, `python -m concord.kernels.checks.child`.

The request, on its input, is a JSON object: `shapes`, as `Shapes.as_json` gives them; `device`; `seed`; `ops`;
`kernels`, those that are judged, triton or native; and `timed`, whether cases that pass are timed. The output has a
JSON object a line: {"begins": op} before an op's first case, then its verdicts, and {"ends": op}. A kernel that faults
or hangs takes this process alone with it, and the line that is missing says which op that was. What is raised goes to
the error output whole, beside what the compiler writes there; a verdict that does not pass says where its case's part
of that begins and ends.
"""

import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import Any

import torch

from concord.kernels.checks.cases import cases_of
from concord.kernels.checks.judging import Case, Verdict, judge, raised, time_case
from concord.kernels.checks.shapes import Shapes
from concord.kernels.native.build import native_library

DEVICE_LOST = 3  # the exit code where the device takes no more work from this process
OUT_OF_MEMORY = 4  # the exit code where a case does not fit into the device's memory: no verdict on its kernels


def main() -> int:
    """Read the request and answer it."""
    request = json.load(sys.stdin)
    if request["kernels"] == "native":
        native_library()
    shapes, device = Shapes.from_json(request["shapes"]), torch.device(request["device"])
    for op in request["ops"]:
        _tell({"begins": op})
        torch.manual_seed(request["seed"])
        for case in cases_of(op, shapes, device):
            before = _said()
            try:
                verdict, lost = _judged(case, device, request["kernels"])
            except torch.OutOfMemoryError:
                return OUT_OF_MEMORY
            entry: dict[str, Any] = asdict(verdict) | ({} if verdict.passed else {"said": [before, _said()]})
            if request["timed"] and verdict.passed and case.timed:
                entry |= _timed(case, device)
            _tell(entry)
            if lost:
                return DEVICE_LOST
        _tell({"ends": op})
    return 0


def _judged(case: Case, device: torch.device, kernels: str) -> tuple[Verdict, bool]:
    """The verdict, and whether the device is lost to this process."""
    try:
        verdict = judge(case, kernels)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an error of the kernel or of the compiler is the verdict, whatever its type
        traceback.print_exc()
        verdict = raised(case, error)
    if verdict.passed or device.type == "cpu":
        return verdict, False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return verdict, True
    return verdict, False


def _timed(case: Case, device: torch.device) -> dict[str, Any]:
    try:
        seconds, share = time_case(case, device)
    except RuntimeError as error:  # the results are right all the same
        return {"not_timed": str(error).strip().splitlines()[0][:200]}
    return {"seconds": seconds, "share": share}


def _said() -> int:
    """Bytes on the error output so far, 0 where it is no file."""
    sys.stderr.flush()
    try:
        return os.lseek(sys.stderr.fileno(), 0, os.SEEK_CUR)
    except OSError:
        return 0


def _tell(entry: dict[str, Any]) -> None:
    print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    sys.exit(main())
