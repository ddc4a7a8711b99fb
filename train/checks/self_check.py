"""The self-check before a first step: every op that a run launches, judged on its device before it is trusted.

Triton's kernels are judged in child processes, and the native ones of a CPU here, which takes a second at most; where
other threads run in this process they are judged in a child too, since judging changes what is the process's: fresh
memory, torch's deterministic mode, its random numbers.
The verdicts are kept in the user's cache directory, by device, driver, versions, the kernels' source and the shapes:
each is paid once.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from concord import kernels
from concord.bert.errors import InputError
from concord.kernels.caches import user_cache
from concord.kernels.checks.cases import cases_of
from concord.kernels.checks.judging import judge_all
from concord.kernels.checks.shapes import Shapes, ops_of
from concord.kernels.dispatch import (
    chosen_kernels,
    interpreted,
    launches_native,
    launches_triton,
    set_kernels,
    takes_triton,
)
from concord.kernels.native.build import instruction_set, native_library
from concord.kernels.ops import OPS
from concord.kernels.threads import runs_alone
from concord.train.checks.children import CheckNotDone, Entry, judge_ops
from concord.train.checks.kept import keep, read_kept
from concord.train.reporter import SILENT, Reporter
from concord.train.steps.precision import Precision, choose_kernels, processor

_SOURCE = Path(kernels.__file__).parent
_MOST_REASON = 160  # characters of a reason in the banner
_CHECKING = threading.Lock()  # held while kernels are judged, and nothing of a caller's is called


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a self-check found.

    Attributes:
        verdicts: in the order of the ops.
        path: where they are kept.
        seconds: how long the check took.
        kept_since: when they were found, "" where that was just now.
    """

    verdicts: Sequence[Entry]
    path: Path
    seconds: float
    kept_since: str = ""

    def failed(self) -> dict[str, Entry]:
        """Op -> its first verdict against it."""
        found: dict[str, Entry] = {}
        for verdict in self.verdicts:
            if not verdict["passed"]:
                found.setdefault(verdict["op"], verdict)
        return found

    def summary(self) -> str:
        """One line."""
        ops = len({verdict["op"] for verdict in self.verdicts})
        failures = sum(not verdict["passed"] for verdict in self.verdicts)
        outcome = f"{failures} failed" if failures else "all passed"
        when = f"on {self.kept_since[:10]}, kept in {self.path}" if self.kept_since else f"in {self.seconds:.1f} s"
        return f"{len(self.verdicts)} cases of {ops} ops, {outcome} ({when})"


def resolve_kernels(
    kernels: str, self_check: str, precision: Precision, shapes: Callable[[], Shapes], reporter: Reporter
) -> str:
    """Resolve the flags --kernels and --self-check for the whole process, or within `own_choices` for this thread; in
    words, what ops take from now on.

    self_check: auto checks native kernels, and Triton's on CUDA, on also interpreted ones, off none; shapes: gives what
    will be launched, where that is needed; reporter: is told what comes of the check.
    Raises InputError as `choose_kernels` does, where an op fails and --kernels triton or native asked for all of them,
    and where --self-check on cannot be done.
    """
    device, taken = precision.device, choose_kernels(kernels, precision)
    native = launches_native(device)
    if not native and (not launches_triton(device) or (self_check == "auto" and device.type == "cpu")):
        return taken
    if self_check == "off":
        return f"{taken}, unchecked as asked"
    try:
        checked = check(shapes().for_native() if native else shapes().on(device), device, reporter)
    except CheckNotDone as error:
        if self_check == "on":
            raise InputError(f"--self-check on: {error}") from None
        reporter.warn(f"the kernels are not checked on this device: {error}")
        return f"{taken}, unchecked"
    reporter.say(f"checked    {checked.summary()}")
    failed = checked.failed()
    described = "; ".join(f"{OPS[op].title} from torch: {describe_failure(verdict)}" for op, verdict in failed.items())
    if not failed:
        return taken
    if kernels in ("triton", "native"):
        raise InputError(
            f"--kernels {kernels}: {described.replace(' from torch:', ':')}; --kernels auto takes it from torch, "
            "--self-check off trusts it all the same"
        )
    set_kernels(chosen_kernels(), from_torch=failed)
    return f"{taken}; {described}"


def describe_failure(verdict: Entry) -> str:
    """Why an op is not trusted, in some words."""
    if verdict["error"] is not None:
        return f"its check failed here, error {verdict['error']:.2g}, allowed {verdict['allowed']:.2g}"
    return f"its check failed here, {verdict['reason'][:_MOST_REASON]}"


def check(shapes: Shapes, device: torch.device, reporter: Reporter = SILENT) -> Checked:
    """The verdicts on what a run of `shapes` launches on `device`: kept ones, or new ones, which then are kept.

    reporter: is told before anything is judged. Raises CheckNotDone where nothing can be judged.
    """
    native = launches_native(device)
    environment = native_environment() if native else environment_of(device)
    path = verdict_path(environment, shapes)
    if kept := _read(path, environment, shapes):
        return kept
    reporter.say("checking   the kernels on this device, once")
    with _CHECKING:
        if kept := _read(path, environment, shapes):  # another thread has found them meanwhile
            return kept
        began = time.perf_counter()
        if native:
            verdicts = _judge_native(shapes, device)
        else:
            verdicts = judge_ops([op for op in ops_of(shapes) if takes_triton(op, device)], shapes, device)
        checked = Checked(verdicts=verdicts, path=path, seconds=time.perf_counter() - began)
        _keep(checked, environment, shapes)
    return checked


def _judge_native(shapes: Shapes, device: torch.device) -> list[Entry]:
    ops = [op for op in ops_of(shapes) if OPS[op].native]
    if not runs_alone():
        return judge_ops(ops, shapes, device, kernels="native", jobs=1)
    return [asdict(verdict) for verdict in judge_all(ops, lambda op: cases_of(op, shapes, device), "native")]


def native_environment() -> dict[str, str]:
    """What verdicts on native kernels hold for: processor, instruction set, torch, the library and the checks."""
    return {
        "device": processor(),
        "capability": instruction_set(),
        "torch": torch.__version__,
        "library": native_library().digest,
        "kernels": source_digest(),
    }


def environment_of(device: torch.device) -> dict[str, str]:
    """What verdicts hold for, and nothing else: device, capability, driver, versions, and the kernels' source.

    Asks the device without opening a context on it. Triton must be installed.
    """
    import triton

    found = {"torch": torch.__version__, "triton": triton.__version__, "kernels": source_digest()}
    if device.type == "cpu":
        return found | {"device": "interpreter" if interpreted() else "cpu"}
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return found | {"device": name, "capability": f"{major}.{minor}", "driver": driver_version()}


def driver_version() -> str:
    """The NVIDIA driver's version as the kernel module tells it, and the newest CUDA that it serves."""
    serves = torch._C._cuda_getDriverVersion() if torch.version.cuda else 0
    try:
        own = Path("/sys/module/nvidia/version").read_text(encoding="utf-8").strip()
    except OSError:
        own = "version unknown"
    return f"{own}, CUDA {serves // 1000}.{serves % 1000 // 10}"


def source_digest() -> str:
    """sha256 (hex) of the source of the kernels and of their checks."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _SOURCE.rglob("*") if path.suffix in (".py", ".h", ".cpp")):
        digest.update(f"{path.relative_to(_SOURCE)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def verdict_folder() -> Path:
    """Where verdicts are kept: concord/self-check in the user's cache directory."""
    return user_cache("self-check")


def verdict_path(environment: Mapping[str, str], shapes: Shapes) -> Path:
    """The file of the verdicts on `shapes` in an environment."""
    both = (json.dumps(content, sort_keys=True).encode() for content in (environment, shapes.as_json()))
    return verdict_folder() / f"{'-'.join(hashlib.sha256(one).hexdigest()[:16] for one in both)}.json"


def _read(path: Path, environment: Mapping[str, str], shapes: Shapes) -> Checked | None:
    def parse(content: dict[str, Any]) -> Checked | None:
        if content["environment"] != environment or Shapes.from_json(content["shapes"]) != shapes:
            return None
        verdicts = content["verdicts"]
        known = all(entry["op"] in OPS and isinstance(entry["passed"], bool) for entry in verdicts)
        kept = Checked(verdicts=verdicts, path=path, seconds=content["seconds"], kept_since=content["found"])
        kept.summary(), [describe_failure(verdict) for verdict in kept.failed().values()]
        return kept if known and verdicts else None

    return read_kept(path, parse)


def _keep(checked: Checked, environment: Mapping[str, str], shapes: Shapes) -> None:
    content = {
        "environment": environment,
        "shapes": shapes.as_json(),
        "verdicts": list(checked.verdicts),
        "seconds": checked.seconds,
        "found": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    keep(checked.path, content)
