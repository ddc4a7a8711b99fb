"""What readers of tensors and of token caches make of files that are damaged, one damage after the other."""

import random

import numpy as np
import torch

from concord.bert.errors import InputError
from concord.bert.tensor_files import read_tensors, write_tensors
from concord.bert.tokenizer import Tokenizer
from concord.train.data.tasks import Example, select_tasks
from concord.train.data.tokenized import TokenCache, tokenize_split
from tests.reliability.trials import damage
from tests.train.told import Told

TENSORS = {
    "half": torch.arange(12, dtype=torch.bfloat16).reshape(3, 4),
    "scalar": torch.tensor(2.0, dtype=torch.float64),
    "many": torch.arange(500, dtype=torch.int64),
    "none": torch.empty(0, 7),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "turned": torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).T,
    "yes": torch.tensor([True, False, True]),
}
METADATA = {"format": "pt", "progress": '{"steps": 3}'}


def equal(found, expected):
    """Whether two sets of tensors have the same names, dtypes, shapes and values."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


def damaged_tensors(folder, count, seed):
    """How so many damages of a file of tensors end."""
    path, draw = folder / "file.safetensors", random.Random(seed)
    write_tensors(path, TENSORS, METADATA)
    sound = path.read_bytes()
    for _ in range(count):
        path.write_bytes(sound)
        what = damage(path, draw)
        try:
            found = read_tensors(path, digest_required=True)
        except InputError as error:
            line = str(error)
            yield "refused by name" if line.startswith(f"{path}: ") and "\n" not in line else f"UNNAMED {line}"
            continue
        # Some bits mean nothing, such as those of the blanks behind the header.
        same = equal(found.tensors, TENSORS) and METADATA.items() <= found.metadata.items()
        yield "without meaning" if same else f"SILENT {what}"


def tokenising(folder):
    """A function that tokenises the same examples with a cache, and gives the arrays, and what was said."""
    words = [f"w{number}" for number in range(40)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer, (task,) = Tokenizer.load(folder), select_tasks(["sts"], None)
    examples = [Example(str(index), " ".join(words[:index]), words[index], 1.0) for index in range(30)]

    def tokenise():
        told = Told()
        cache = TokenCache(folder / "cache", told)
        split = tokenize_split(task, examples, tokenizer, pair_encoding="joint", max_length=16, cache=cache)
        return [split.ids, split.segments, split.cu_seqlens, np.array([split.truncated])], told.lines

    return tokenise


def damaged_caches(folder, count, seed):
    """How so many damages of a token cache end."""
    tokenise = tokenising(folder)
    expected, _ = tokenise()
    (path,) = (folder / "cache").iterdir()
    sound, draw = path.read_bytes(), random.Random(seed)
    for _ in range(count):
        what = damage(path, draw)
        gone = not path.exists()
        found, told = tokenise()
        same = all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
        # Where nothing was said, the file was taken as it is, damage and all.
        mended = path.read_bytes() == sound
        if not same or (told and not mended):
            yield f"SILENT {what}"
        else:
            yield "made anew, as one that is missing" if gone else "made anew" if told else "without meaning"
        path.write_bytes(sound)
