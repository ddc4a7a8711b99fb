"""What a step costs on many GPUs, on paper: python -m bench.many_gpus_costs prints the tables of docs/many-gpus.md.

Nothing here is measured on several GPUs. Sending is counted: with P parameters, T tasks and N ranks, (T + 1) * P * 2
bytes * (N - 1) / N a rank in bf16, at the bandwidth of the slowest link on its way, and a latency for each hop of each
collective's ring. Computing is 6 operations for each weight of the layers and token, at the speed that an H200 was seen
to multiply at, and a rank's share of the optimizer's pass at the speed that it was seen to copy at.
"""

from dataclasses import dataclass

MULTIPLIES, COPIES = 790e12, 4.3e12  # operations and bytes a second, as docs/performance.md has them
NVLINK, NETWORK = 400e9, 50e9  # bytes a second of a rank: within a machine of 8, and 400 Gb/s between machines
HOP = 5e-6  # seconds, assumed, of a message to the next rank
MACHINE = 8  # GPUs
TOKENS = 2750  # of a batch of 32 examples of each of three tasks, real lengths


@dataclass(frozen=True)
class Model:
    """name: as people know it; parameters: all; layers: the weights of its layers; segments: layers, and two more."""

    name: str
    parameters: float
    layers: float
    segments: int


MODELS = (Model("BERT-base", 109.5e6, 85.1e6, 14), Model("BERT-large", 335.1e6, 302.3e6, 26))


@dataclass(frozen=True)
class Cost:
    """Of a step, in seconds.

    sent: bytes that a rank sends.
    sending: what the links need for them.
    waiting: the hops' latency.
    computing: forward and backward of one micro-batch, and the optimizer's pass.
    """

    sent: float
    sending: float
    waiting: float
    computing: float

    @property
    def accumulations(self) -> int:
        """Micro-batches a step with which sending, hidden by nothing, is a fifth of the step at most."""
        return max(1, -(-int(1e9 * 4 * (self.sending + self.waiting)) // int(1e9 * self.computing)))


def cost(model: Model, tasks: int, ranks: int) -> Cost:
    """The cost of a step of `tasks` tasks on `ranks` GPUs, each of which has a batch of its own of 32 a task."""
    share, tokens = (ranks - 1) / ranks, TOKENS * tasks / 3
    sent = (tasks + 1) * model.parameters * 2 * share
    collectives = model.segments * (tasks + 1)
    gram = 2 * tasks * model.parameters / ranks / COPIES
    update = (2 * tasks + 26) * model.parameters / ranks / COPIES
    return Cost(
        sent=sent,
        sending=sent / (NVLINK if ranks <= MACHINE else NETWORK),
        waiting=collectives * (ranks - 1) * HOP,
        computing=6 * model.layers * tokens / MULTIPLIES + gram + update,
    )


def last_useful(model: Model, tasks: int) -> int:
    """Ranks from which on more of them make the step of one batch of 32 a task, divided among all, slower: powers of
    two."""

    def step(ranks: int) -> float:
        one = cost(model, tasks, ranks)
        products = 6 * model.layers * TOKENS * tasks / 3 / MULTIPLIES
        return products / ranks + (one.computing - products) + one.sending + one.waiting

    ranks = 1
    while step(2 * ranks) < step(ranks):
        ranks *= 2
    return ranks


def tables() -> list[str]:
    """The lines of both tables."""
    lines = [
        "| model | tasks | GPUs | sent by a rank | sending | hops | computing | micro-batches a step, for a fifth |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in MODELS:
        for tasks in (3, 8):
            for ranks in (8, 64, 512):
                own = cost(model, tasks, ranks)
                numbers = (own.sending, own.waiting, own.computing)
                times = " | ".join(f"{1e3 * number:.1f} ms" for number in numbers)
                lines.append(
                    f"| {model.name} | {tasks} | {ranks} | {own.sent / 1e9:.2f} GB | {times} | {own.accumulations} |"
                )
    lines += [
        "",
        "| model | tasks | GPUs that still shorten the step of one batch of 32 a task |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {model.name} | {tasks} | {last_useful(model, tasks)} |" for model in MODELS for tasks in (3, 8)]
    return lines


if __name__ == "__main__":
    print("\n".join(tables()))
