"""Builds a tokenizer.json that came from outside and tries it, in a process of its own with limits: what makes the
tokenizers' library panic, hang or fill the memory costs nobody but this process anything.

It is run by its path, with the path of the file, and imports nothing of the project, whose rooms need time to import.
Exit code 0: the file is as good as it can be known to be; `REFUSED`: its output says why it is not.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

REFUSED = 3
MEMORY = 2 << 30  # bytes of addresses
SECONDS = 20  # of computing
_MOST_GROWTH = 16  # wordpieces, or characters once normalised, for each character of a text
_PLAIN = "ax 0!é日\n"
_MOST_SIGNS = 12  # of a pattern, that texts are made of
_RUNS = (29, 2000)  # too short, and long enough, for what takes exponential and quadratic time


def patterns_of(value: Any) -> Iterator[str]:
    """Every regular expression within what a tokenizer.json holds."""
    if isinstance(value, dict):
        if isinstance(value.get("Regex"), str):
            yield value["Regex"]
        for inner in value.values():
            yield from patterns_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from patterns_of(inner)


def trial_texts(patterns: list[str]) -> Iterator[str]:
    """Texts that a careless pattern takes long for: runs of one sign, or of two by turns, that end in another one."""
    for sign in _PLAIN:
        yield sign * _RUNS[1] + "!"
    signs = dict.fromkeys(sign for pattern in patterns for sign in pattern if sign.isalnum() or sign == " ")
    for one, other in itertools.product([*signs][:_MOST_SIGNS], repeat=2):
        for length in _RUNS:
            yield (one + other) * (length // 2) + "!"


def problem_of(path: str) -> str:
    """What is wrong with a tokenizer.json, in a phrase; "" where nothing is."""
    import tokenizers

    with open(path, encoding="utf-8") as file:
        content = file.read()
    tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.to_str()
    for text in trial_texts(list(patterns_of(json.loads(content)))):
        normalised = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer is not None else text
        pieces = len(tokenizer.encode(text, add_special_tokens=False).ids)
        if max(len(normalised), pieces) > _MOST_GROWTH * len(text):
            return f"it makes more than {_MOST_GROWTH} characters or wordpieces of one"
    return ""


def main() -> int:
    """Limit this process, and judge the file that its argument names."""
    try:
        import resource
    except ImportError:  # Windows, where the time that the parent gives is the only limit
        pass
    else:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        problem = problem_of(sys.argv[1])
    except MemoryError:
        problem = "it needs too much memory"
    except BaseException as error:  # the library panics with an error of its own that is no Exception
        problem = str(error) or type(error).__name__
    print(problem[:300], end="")
    return REFUSED if problem else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(main())
