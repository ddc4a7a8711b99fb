"""Cases of what stands around forward and backward: gathering, Gram matrices, the plan, and the optimizer's pass."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn

from concord.kernels.checks.autograd import NAMES
from concord.kernels.checks.judging import Case
from concord.kernels.gather import Corpus, gather_tokens
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.measure import Work
from concord.kernels.surgery.adamw import combine_adamw_
from concord.kernels.surgery.gram import gram_matrix
from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors
from concord.kernels.surgery.plan import Rates, SurgerySettings, new_surgery_state, plan_update

_BETAS, _EPSILON = (0.9, 0.999), 1e-6
_STEPS = 3  # steps that are planned; the second of them overflows


def gather_case(lengths: Sequence[int], chosen: int, tasks: int, device: torch.device | str) -> Case:
    """A batch of `chosen` sequences of a corpus of `lengths`, shared by `tasks` tasks, with padding rows at its end."""
    total = int(sum(lengths))
    corpus = Corpus(
        ids=torch.randint(1, 30_000, (total,), dtype=torch.int32, device=device),
        segments=torch.randint(0, 2, (total,), dtype=torch.uint8, device=device),
        cu_seqlens=torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], device=device),
    )
    numbers = torch.randint(len(lengths), (chosen,), device=device)
    tokens = int(torch.tensor(lengths)[numbers.cpu()].sum()) + 37
    offsets = torch.linspace(0, chosen, tasks + 1).to(torch.int32).to(device)

    def compute(dtype: torch.dtype) -> Mapping[str, Tensor]:
        return vars(gather_tokens(corpus, numbers, offsets, tokens))

    return Case(
        op="gather",
        shapes=f"{chosen} sequences up to {max(lengths)} of {tasks} tasks",
        dtype=torch.float32,
        compute=compute,
        timed=lambda: compute(torch.float32),
        work=Work(17 * tokens),
    )


def flat_parameters(
    blocks: Mapping[str, Sequence[tuple[int, ...]]],
    tasks: int,
    dtype: torch.dtype,
    gradient_dtype: torch.dtype,
    device: torch.device | str,
) -> FlatParameters:
    """Parameters of the shapes in each of `blocks`, in the flat layout, with random gradients and moments."""
    shapes = {f"{block}.{index}": shape for block, own in blocks.items() for index, shape in enumerate(own)}
    named = {name: nn.Parameter(torch.randn(shape, device=device)) for name, shape in shapes.items()}
    owner = {name: name.rpartition(".")[0] for name in named}
    flat = FlatParameters(named, owner, tasks=tasks, compute_dtype=dtype, gradient_dtype=gradient_dtype)
    for entry in flat.entries:
        gradients = flat.view(flat.gradients, entry)
        gradients.copy_(torch.randn(gradients.shape, device=device))
        flat.view(flat.momentum, entry).normal_()
        flat.view(flat.variance, entry).uniform_(0.5, 2.0)
    return flat


def gram_case(flat: FlatParameters, parameters: str) -> Case:
    """The Gram matrix of the task gradients of `flat`; parameters: what they are, in words."""
    gradients = flat.gradients
    tasks, device = len(gradients), gradients.device

    def exact() -> Mapping[str, Tensor]:
        gram = torch.zeros(len(flat.block_names), tasks, tasks, dtype=torch.float64, device=device)
        for run in flat.runs:
            rows = gradients[:, run.start : run.stop].double()
            gram[run.block] += rows @ rows.t()
        return {"Gram matrix": gram}

    def compute(dtype: torch.dtype) -> Mapping[str, Tensor]:
        # Products are fp32 sums: their accuracy is that of fp32, whatever is done in fp64 afterwards.
        return {"Gram matrix": gram_matrix(flat).float()}

    return Case(
        op="gram_matrix",
        shapes=f"{tasks} tasks, {parameters} in {NAMES[gradients.dtype]}",
        dtype=torch.float32,
        compute=compute,
        exact=exact,
        repeats_torch=False,
        timed=lambda: gram_matrix(flat),
        work=Work(gradients.numel() * gradients.element_size()),
    )


def adamw_case(flat: FlatParameters, parameters: str) -> Case:
    """One step of combine + AdamW on `flat`; parameters: what they are, in words."""
    tasks, device, blocks = len(flat.gradients), flat.master.device, len(flat.block_names)
    coefficients = torch.randn(blocks, tasks, device=device)
    arguments = {
        "factor": torch.tensor(0.7, device=device),
        "step_sizes": torch.linspace(1e-3, 2e-3, blocks, device=device),
        "shrinks": torch.linspace(0.999, 0.99, blocks, device=device),
        "apply": torch.tensor(True, device=device),
    }
    before = {name: getattr(flat, name).clone() for name in ("master", "momentum", "variance")}

    def step() -> None:
        combine_adamw_(flat, coefficients, **arguments, beta1=_BETAS[0], beta2=_BETAS[1], epsilon=_EPSILON)

    def compute(dtype: torch.dtype) -> Mapping[str, Tensor]:
        for name, value in before.items():
            getattr(flat, name).copy_(value)
        flat.refresh_compute()
        step()
        return {
            "movement": flat.master - before["master"],
            "momentum": flat.momentum.clone(),
            "variance": flat.variance.clone(),
            "copy": flat.compute.clone(),
        }

    def exact() -> Mapping[str, Tensor]:
        wide = {name: value.double() for name, value in before.items()}
        results = {name: torch.zeros_like(wide["master"]) for name in ("movement", "momentum", "variance", "copy")}
        for run in flat.runs:
            span = slice(run.start, run.stop)
            merged = (coefficients[run.block] * arguments["factor"]).double() @ flat.gradients[:, span].double()
            first = wide["momentum"][span] + (merged - wide["momentum"][span]) * (1 - _BETAS[0])
            second = wide["variance"][span] + (merged**2 - wide["variance"][span]) * (1 - _BETAS[1])
            weight = wide["master"][span] - arguments["step_sizes"][run.block] * first / (second.sqrt() + _EPSILON)
            if run.decays:
                weight = weight * arguments["shrinks"][run.block].double()
            results["momentum"][span], results["variance"][span] = first, second
            results["movement"][span], results["copy"][span] = weight - wide["master"][span], weight
        return results

    item = flat.gradients.element_size()
    copied = 0 if flat.compute is flat.master else flat.compute.element_size()
    return Case(
        op="combine_adamw",
        shapes=f"{tasks} tasks, {parameters}, {NAMES[flat.compute.dtype]} from {NAMES[flat.gradients.dtype]}",
        dtype=torch.float32,
        compute=compute,
        exact=exact,
        timed=step,
        work=Work(flat.size * (tasks * item + 24 + copied)),
    )


def plan_case(settings: SurgerySettings, tasks: int, blocks: int, heads: int, device: torch.device | str) -> Case:
    """Three steps planned for `tasks` tasks that conflict often, the second of which overflows."""
    gradients = torch.randn(_STEPS, blocks, tasks, 9, dtype=torch.float64, device=device)
    grams = gradients @ gradients.mT
    grams[_STEPS - 2, -1, 0, 0] = torch.inf
    rates = Rates(
        shared=torch.linspace(1e-4, 2e-4, blocks, device=device),
        private=torch.linspace(1e-3, 3e-3, heads, device=device),
        factor=torch.tensor(0.5, device=device),
    )
    owners = torch.arange(heads, dtype=torch.int32, device=device) % tasks
    squares = torch.linspace(0.1, 2.0, heads, dtype=torch.float64, device=device)
    groups = blocks if settings.by_block else 1
    given = torch.rand(groups, tasks, dtype=torch.float64, device=device) if settings.method == "given" else None

    def compute(dtype: torch.dtype) -> Mapping[str, Tensor]:
        state = new_surgery_state(settings, tasks, blocks, heads, device)
        results = {}
        for step in range(_STEPS):
            seed = torch.tensor(step, device=device)
            plan = plan_update(grams[step], squares, owners, rates, seed, settings, state, given)
            for field in fields(plan):
                # Of a step that is not applied nothing else is read.
                if step != _STEPS - 2 or field.name == "apply":
                    results[f"{field.name} of step {step + 1}"] = getattr(plan, field.name).clone()
        return results | {name: value.clone() for name, value in state.tensors().items()}

    def exact() -> Mapping[str, Tensor]:
        return compute(torch.float64)  # the reference plans in fp64

    state, seed = new_surgery_state(settings, tasks, blocks, heads, device), torch.tensor(1, device=device)
    scope = "by block" if settings.by_block else "heads too" if settings.private_norms else "whole"
    traits = [scope, *(["clipped"] if settings.max_norm else []), *(["scaled"] if settings.scaling else [])]
    return Case(
        op="plan_update",
        shapes=f"{settings.method} {', '.join(traits)}, {tasks} tasks, {blocks} blocks, {heads} heads",
        dtype=torch.float32,
        compute=compute,
        exact=exact,
        repeats_torch=False,
        timed=lambda: plan_update(grams[0], squares, owners, rates, seed, settings, state, given),
    )


def multi_tensor_case(
    shapes: Sequence[tuple[int, ...]], tasks: int, dtype: torch.dtype, device: torch.device | str
) -> Case:
    """Gram matrix and combination of gradients that lie apart; the first parameter is not reached by the last task."""
    gradients = [[torch.randn(shape, device=device).to(dtype) for _ in range(tasks)] for shape in shapes]
    if tasks > 1:
        gradients[0][-1] = None
    coefficients = torch.randn(len(shapes), tasks, device=device)

    def compute(dtype: torch.dtype) -> Mapping[str, Tensor]:
        merged = combine_tensors(gradients, coefficients)
        found = {f"merged gradient {index}": value for index, value in enumerate(merged)}
        return found | {"Gram matrix": gram_of_tensors(gradients).float()}

    def exact() -> Mapping[str, Tensor]:
        results, gram = {}, torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
        for index, (own, weights) in enumerate(zip(gradients, coefficients.double(), strict=True)):
            rows = torch.stack([torch.zeros_like(own[0]) if row is None else row for row in own]).double()
            results[f"merged gradient {index}"] = torch.tensordot(weights, rows, 1)
            gram += rows.flatten(1) @ rows.flatten(1).t()
        return results | {"Gram matrix": gram}

    return Case(
        op="multi_tensor",
        shapes=f"{tasks} tasks, {len(shapes)} parameters in {NAMES[dtype]}",
        dtype=dtype,
        compute=compute,
        exact=exact,
        repeats_torch=False,
        timed=lambda: compute(dtype),
        work=Work(dtype.itemsize * (2 * tasks + 1) * sum(math.prod(shape) for shape in shapes)),
    )
