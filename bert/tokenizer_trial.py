"""The trial of a tokenizer.json that came from outside, before it is built in this process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from concord.bert import tokenizer_child
from concord.bert.errors import InputError, shown

_MOST_IDS = 1 << 24  # of a vocabulary; the library makes tables as long as the largest id
_LONGEST_WORD = 1000  # characters of a word that has wordpieces: the time grows with their square; BERT's own is 100
_SECONDS = 60.0  # for the child, on a machine that is busy


def try_tokenizer(path: Path, content: dict[str, Any]) -> None:
    """InputError where a tokenizer.json from outside, which holds `content`, has ids or words beyond all measure, or
    does not stand its trial in a child process."""
    model, added = content.get("model"), content.get("added_tokens")
    model = model if isinstance(model, dict) else {}
    vocabulary = model.get("vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    for number in ids:
        if type(number) is not int or not 0 <= number < _MOST_IDS:
            raise InputError(f"{path}: not a tokenizer: an id is {shown(number)}, expected 0 to {_MOST_IDS - 1}")
    longest = model.get("max_input_chars_per_word", 0)
    if type(longest) is not int or not 0 <= longest <= _LONGEST_WORD:
        found = shown(longest)
        raise InputError(f"{path}: max_input_chars_per_word is {found}, expected {_LONGEST_WORD} at most")
    # Without -P its own folder would come first where the child looks for modules.
    command = [sys.executable, "-P", tokenizer_child.__file__, str(path)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        child = subprocess.run(command, capture_output=True, env=environment, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"{path}: not a tokenizer (its trial did not end within {_SECONDS:g} s)") from None
    if child.returncode < 0:
        ending = signal.Signals(-child.returncode).name
        raise InputError(
            f"{path}: not a tokenizer (its trial ended with {ending}: {tokenizer_child.SECONDS} s and "
            f"{tokenizer_child.MEMORY >> 30} GiB are what it may take)"
        )
    if child.returncode:
        reason = child.stdout.decode("utf-8", "replace") or f"exit code {child.returncode}"
        raise InputError(f"{path}: not a tokenizer ({reason})")
