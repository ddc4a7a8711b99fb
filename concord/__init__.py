"""Concord: one BERT, several tasks, and the conflicts between their gradients repaired.

Everything is imported by this name: `concord.kernels`, `concord.bert`, `concord.train`. Installed, these rooms lie in
this folder; in a checkout they lie beside it, where their commands are typed, and are found there.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that type checkers and editors know what is imported when it is first asked for
    from concord.train.library import fine_tune, load
    from concord.train.settings.config import RunConfig
    from concord.train.surgery import GradVac, PCGrad, Surgery

__version__ = "2026.11.0"

# What a user needs in a program of their own: name -> where it lies. Each is imported when it is first asked for.
_PUBLIC = {
    "GradVac": "concord.train.surgery",
    "PCGrad": "concord.train.surgery",
    "RunConfig": "concord.train.settings.config",
    "Surgery": "concord.train.surgery",
    "fine_tune": "concord.train.library",
    "load": "concord.train.library",
}
__all__ = ["GradVac", "PCGrad", "RunConfig", "Surgery", "__version__", "fine_tune", "load"]

_FOLDER = Path(__file__).resolve().parent
if not (_FOLDER / "kernels").is_dir():
    __path__.append(str(_FOLDER.parent))


def __getattr__(name: str) -> Any:
    """A public name, from its module; AttributeError where there is none of that name."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'concord' has no attribute {name!r}; it has {', '.join(sorted(_PUBLIC))}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
