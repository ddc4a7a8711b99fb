"""What two processes do in the tests of surgery over ranks: python -m tests.train.surgery_ranks CASE RANK FILE OUT."""

import copy
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from concord.train.ranks.joined import end_groups
from concord.train.surgery import GradVac, PCGrad
from tests.train.literal_surgery import BETA, SEED, batches

STEPS, ROWS = 6, 8  # a rank's rows of a batch of 16


class Trunk(nn.Module):
    """Two tasks that conflict on a trunk of two layers."""

    def __init__(self, reentrant=False):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 1) for _ in range(2)])
        self.reentrant = reentrant

    def forward(self, batch):
        if self.reentrant:
            hidden = checkpoint(self.first, batch.clone().requires_grad_(), use_reentrant=True).tanh()
        else:
            hidden = self.first(batch).tanh()
        features = hidden + self.second(hidden).tanh()
        return [(head(features) - batch[:, t : t + 1]).square().mean() for t, head in enumerate(self.heads)]


def new_trunk(**more):
    torch.manual_seed(3)
    return Trunk(**more)


def wrap(kind, parameters, **options):
    more = {"beta": BETA} if kind is GradVac else {}
    return kind(torch.optim.SGD(parameters, lr=0.05, momentum=0.9), seed=SEED, **more, **options)


def flat(model):
    return torch.cat([full(parameter).detach().flatten() for parameter in model.parameters()])


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def mine(batch, rank):
    """A rank's rows; all of them where there is one rank alone."""
    return batch if rank is None else batch[rank * ROWS : (rank + 1) * ROWS]


def train(kind, model, rank, group, *, accumulate=1, scaler=None, losses=None):
    """The weights after some steps, all calls' coefficients, the last one's norms, and the targets of gradvac."""
    surgery, coefficients = wrap(kind, model.parameters(), process_group=group, scaler=scaler), []
    for step, batch in enumerate(batches(STEPS).cpu()):
        surgery.zero_grad()
        for number in range(accumulate):
            part = mine(batch * (1 + number), rank)
            found = model(part)
            if losses is not None:
                found = losses(found, step, rank)
            surgery.pc_backward(found)
            coefficients.append(surgery.statistics().coefficients)
        surgery.step()
    targets = surgery.state_dict()["surgery"]["targets"]
    return {
        "weights": flat(model),
        "targets": targets,
        "coefficients": coefficients,
        "norms": surgery.statistics().norms,
    }


def overflow_on_rank_one(found, step, rank):
    return [found[0], found[1] * torch.inf] if step == 2 and rank in (None, 1) else found


def without_the_second_task_on_rank_one(found, step, rank):
    return [found[0], None] if step % 2 == 0 and rank == 1 else found


def case_plain(rank, group):
    return {kind.__name__: train(kind, new_trunk(), rank, group, accumulate=2) for kind in (PCGrad, GradVac)}


def case_ddp(rank, group):
    from torch.nn.parallel import DistributedDataParallel

    found = {}
    for kind in (PCGrad, GradVac):
        model = DistributedDataParallel(new_trunk())
        with model.no_sync():
            found[kind.__name__] = train(kind, model, rank, group, accumulate=2)
    return found


def case_overflow(rank, group):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = train(GradVac, new_trunk(), rank, group, accumulate=2, scaler=scaler, losses=overflow_on_rank_one)
    return {"GradVac": found, "scale": scaler.get_scale()}


def case_absent(rank, group):
    return {"PCGrad": train(PCGrad, new_trunk(), rank, group, losses=without_the_second_task_on_rank_one)}


def case_reentrant(rank, group):
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(new_trunk(reentrant=True))
    with model.no_sync():
        return {"PCGrad": train(PCGrad, model, rank, group)}


def sharded(rank, group, mesh):
    from torch.distributed.fsdp import fully_shard

    found = {}
    for kind in (PCGrad, GradVac):
        model = new_trunk()
        for layer in (model.first, model.second):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found[kind.__name__] = train(kind, model, rank, group, accumulate=2)
    return found


def case_fsdp(rank, group):
    from torch.distributed.device_mesh import init_device_mesh

    return sharded(rank, group, init_device_mesh("cpu", (2,)))


def case_replicas(rank, group):
    """Each rank has all of a shard's parts: their Gram matrices are not added up."""
    from torch.distributed.device_mesh import init_device_mesh

    return sharded(rank, group, init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards")))


def case_buckets(rank, group):
    from concord.train.surgery import ranks

    ranks._BUCKET = 100  # bytes: many, and a parameter larger than one
    return case_plain(rank, group)


def case_refused(rank, group):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model, told = new_trunk(), {}
    flattened = FullyShardedDataParallel(new_trunk(), device_id=torch.device("cpu"), use_orig_params=True)
    others = dist.new_group([0]), dist.new_group([1])
    for name, attempt in {
        "unsaid": lambda: wrap(PCGrad, model.parameters()),
        "group": lambda: wrap(PCGrad, model.parameters(), process_group=others[1 - rank]),
        "flattened": lambda: wrap(PCGrad, flattened.parameters(), process_group=group).pc_backward(
            flattened(batches(1)[0].cpu())
        ),
        "tasks": lambda: wrap(PCGrad, model.parameters(), process_group=group).pc_backward(
            model(batches(1)[0].cpu())[: 1 + rank]
        ),
        "names": lambda: wrap(PCGrad, model.parameters(), process_group=group).pc_backward(
            dict(zip(("a", "b") if rank else ("b", "a"), model(batches(1)[0].cpu()), strict=True))
        ),
        "seeds": lambda: PCGrad(torch.optim.SGD(model.parameters()), process_group=group, seed=rank).pc_backward(
            model(batches(1)[0].cpu())
        ),
    }.items():
        try:
            attempt()
        except ValueError as error:
            told[name] = str(error)
    alone = wrap(PCGrad, model.parameters(), process_group=None)
    alone.pc_backward(model(batches(1)[0].cpu() * (1 + rank)))
    told["alone"] = model.first.weight.grad.norm()
    told["copied"] = copy.deepcopy(wrap(PCGrad, model.parameters(), process_group=group))._process_group is group
    return told


CASES = {name.removeprefix("case_"): case for name, case in globals().items() if name.startswith("case_")}


def main(rank, store, out, *names):
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", module="torch")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save({name: CASES[name](rank, dist.group.WORLD) for name in names}, f"{out}-{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
    end_groups()
