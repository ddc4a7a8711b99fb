"""Reads pickles with torch's reader of tensors alone and leaves a safetensors file, in a process with limits.

It is run by its path, with the pickles' bytes, the target's path and the pickles' paths, and imports nothing of the
project. Exit code 0: the target is written; `REFUSED`: its output says why it is not.
"""

import sys

REFUSED = 3
SECONDS = 300  # of computing
_LIBRARIES = 32 << 30  # bytes of addresses that torch's libraries take
_COPIES = 4  # of the pickles' bytes


def problem_of(target: str, paths: list[str]) -> str:
    """Write the tensors of all pickles to `target`; what is wrong with them, in a phrase, or "" for nothing."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for path in paths:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            return f"it holds a {type(found).__name__}, expected tensors by name"
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                return f"{str(name)[:80]!r} is a {type(value).__name__}, expected tensors by name"
            if name in tensors:
                return f"{name[:80]!r} is there twice"
            # Tied weights share their memory, which safetensors does not take.
            tensors[name] = value.detach().clone().contiguous()
    save_file(tensors, target)
    return ""


def main() -> int:
    """Limit this process, and convert the files that its arguments name."""
    size, target, *paths = sys.argv[1:]
    try:
        import resource
    except ImportError:  # Windows, where the time that the parent gives is the only limit
        pass
    else:
        memory = _LIBRARIES + _COPIES * int(size)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        problem = problem_of(target, paths)
    except MemoryError:
        problem = "it needs too much memory"
    except Exception as error:  # whatever a pickle asks for, torch's reader refuses with errors of several kinds
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
    print(problem[:300], end="")
    return REFUSED if problem else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())
