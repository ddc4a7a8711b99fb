"""Gradient surgery for any training loop: an optimizer around another, by any rule."""

from concord.train.surgery.optimizer import GradVac, PCGrad, Surgery

__all__ = ["GradVac", "PCGrad", "Surgery"]
