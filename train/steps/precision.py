"""Which device, which number format and which kernels a run uses, and why."""

import platform
from dataclasses import dataclass

import torch

from concord.bert.errors import InputError, did_you_mean, shown
from concord.kernels.dispatch import NO_TRITON, describe_kernels, has_triton, interpreted, set_kernels
from concord.kernels.native.build import native_library
from concord.kernels.products import cpu_multiplies_bf16
from concord.train.settings.config import AMP_CHOICES, DEVICES


@dataclass(frozen=True)
class Precision:
    """Where a run computes, and in which number format.

    Attributes:
        device: to run on.
        compute_dtype: of matrices and activations.
        scaling: whether losses are multiplied by a dynamic loss scale.
        reason: why this format was chosen, in a phrase.
    """

    device: torch.device
    compute_dtype: torch.dtype
    scaling: bool
    reason: str

    @property
    def name(self) -> str:
        """bf16, fp16 or fp32."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[self.compute_dtype]

    @property
    def device_name(self) -> str:
        """The device as people know it."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU ({processor()}, {torch.get_num_threads()} threads)"


def choose_precision(device: str, amp: str) -> Precision:
    """Resolve the flags --device and --amp.

    device: auto, cpu or cuda; amp: off, auto, bf16 or fp16. `auto` means bf16 where the device multiplies it in
    hardware, else fp16; a CPU with neither stays in fp32, since emulated products are several times slower.
    Raises InputError where CUDA is asked for and there is none, and for another device or format.
    """
    if device not in DEVICES:
        raise InputError(f"--device {shown(device)}: {did_you_mean(str(device), DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available to this PyTorch; use --device cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if amp == "off":
        return Precision(place, torch.float32, False, "--amp not given")
    if amp == "bf16":
        return Precision(place, torch.bfloat16, False, "--amp bf16")
    if amp == "fp16":
        return Precision(place, torch.float16, True, "--amp fp16, dynamic loss scaling")
    if amp != "auto":
        raise InputError(f"--amp {amp}: {did_you_mean(amp, AMP_CHOICES)}")
    if place.type == "cuda":
        if torch.cuda.get_device_capability(place) >= (8, 0):
            return Precision(place, torch.bfloat16, False, "--amp: the GPU multiplies bf16 in hardware")
        return Precision(place, torch.float16, True, "--amp: the GPU has no bf16, so fp16 with dynamic loss scaling")
    if cpu_multiplies_bf16():
        return Precision(place, torch.bfloat16, False, "--amp: the CPU multiplies bf16 in hardware")
    return Precision(
        place, torch.float32, False, "--amp: this CPU multiplies neither bf16 nor fp16 in hardware, so nothing to gain"
    )


def choose_kernels(kernels: str, precision: Precision) -> str:
    """Resolve the flag --kernels for the whole process, or within `own_choices` for this thread; what ops on the run's
    device take from now on, in words.

    On a CPU, `auto` takes the native kernels where they can be built, and says why where they cannot.
    Raises InputError where native kernels are asked for and cannot be had; where Triton is, and is not installed or can
    neither run nor be interpreted; and where its interpreter would have to compute in bf16, whose bits it takes for
    whole numbers in products.
    """
    if kernels == "native" or (kernels == "auto" and precision.device.type == "cpu"):
        return _choose_native(kernels, precision)
    if kernels == "triton" and not has_triton():
        raise InputError(f"--kernels triton: {NO_TRITON}; --kernels auto takes the torch references")
    if kernels == "triton" and precision.device.type == "cpu":
        if not interpreted():
            raise InputError(
                "--kernels triton: needs a CUDA device, or TRITON_INTERPRET=1 to be interpreted on the CPU"
            )
        if precision.compute_dtype == torch.bfloat16:
            raise InputError(
                f"--kernels triton: Triton's interpreter gives wrong products in bf16, which this run would compute in "
                f"({precision.reason}); use --amp off or --amp fp16"
            )
    set_kernels(kernels)
    return describe_kernels(precision.device)


def _choose_native(kernels: str, precision: Precision) -> str:
    """The same where the CPU's native kernels are asked for, or would be taken."""
    if precision.device.type != "cpu":
        raise InputError(f"--kernels native: needs a CPU, and this run is on {precision.device_name}")
    if precision.compute_dtype == torch.float16:
        missing, built = "there are no native kernels of fp16", None
    else:
        library = native_library()
        missing, built = library.missing, library.built
    if missing and kernels == "native":
        raise InputError(f"--kernels native: {missing}; --kernels auto takes the torch references")
    if missing:
        set_kernels("torch")
        return f"torch (reference expressions; {missing})"
    set_kernels("native")
    return describe_kernels(precision.device) + ("" if built is None else f"; built in {built:.0f} s")


def processor() -> str:
    """The name of this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
