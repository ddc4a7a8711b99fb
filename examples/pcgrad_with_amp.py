"""PCGrad with mixed precision, clipping and a schedule: python examples/pcgrad_with_amp.py

The wrapper is an optimizer of torch: a GradScaler, a scheduler and clipping are used as with any other.
"""

import torch

from concord import PCGrad

torch.manual_seed(1)
device = "cuda" if torch.cuda.is_available() else "cpu"
half = torch.float16 if device == "cuda" else torch.bfloat16
trunk = torch.nn.Linear(8, 16).to(device)
heads = torch.nn.ModuleList([torch.nn.Linear(16, 1), torch.nn.Linear(16, 1)]).to(device)
parameters = [*trunk.parameters(), *heads.parameters()]
inputs, targets = torch.randn(64, 8, device=device), torch.randn(2, 64, 1, device=device)

optimizer = PCGrad(torch.optim.AdamW(parameters, lr=0.03))
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
scaler = torch.amp.GradScaler(device)

for step in range(100):
    optimizer.zero_grad()
    for part in range(2):  # gradients are accumulated over two micro-batches
        rows = slice(part * 32, (part + 1) * 32)
        with torch.autocast(device, dtype=half):
            features = trunk(inputs[rows]).relu()
            predictions = [head(features) for head in heads]
        losses = [
            (y.float() - target[rows]).square().mean() / 2 for y, target in zip(predictions, targets, strict=True)
        ]
        optimizer.pc_backward(scaler.scale(losses))
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    if step % 20 == 0 or step == 99:
        rate = scheduler.get_last_lr()[0]
        print(f"step {step:>2}  rate {rate:.4f}  losses {2 * losses[0].item():.3f} {2 * losses[1].item():.3f}")
