"""A trained model's two files of weights: the encoder's, which other libraries load, and the heads' beside it.

The encoder's file names the heads that go with it by the digest of their content. The heads are written first, and
those before them are kept until the encoder's file has taken its place: at any time, one of the two files of heads is
the one that the encoder's file names.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from concord.bert.errors import InputError
from concord.bert.names import EARLIER_HEADS_FILE, HEADS_FILE, WEIGHTS_FILE
from concord.bert.tensor_files import DIGEST, DamagedFile, TensorFile, read_tensors, write_tensors
from concord.bert.weights import write_safetensors

_HEADS = "concord.heads"  # in the metadata of the encoder's file: the digest of the heads that go with it


def write_weights(
    directory: Path, encoder: Mapping[str, Tensor], heads: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> str:
    """Write both files into a folder, and return the digest of the encoder's, which vouches for the heads too.

    metadata: name -> text, for the encoder's file. A kill leaves the model before or this one, whole.
    """
    path, earlier = directory / HEADS_FILE, directory / EARLIER_HEADS_FILE
    named = _metadata(directory / WEIGHTS_FILE).get(_HEADS)
    # After a kill between the two files, those that are named may be the earlier ones already.
    goes_with_it = named is not None and _metadata(path).get(DIGEST) == named
    digest = write_tensors(path, heads, {}, earlier=earlier if goes_with_it else None)
    found = write_safetensors(directory / WEIGHTS_FILE, encoder, {**metadata, _HEADS: digest})
    earlier.unlink(missing_ok=True)
    return found


def read_weights(directory: Path) -> tuple[TensorFile, dict[str, Tensor]]:
    """What the encoder's file in a folder holds, and the heads that go with it.

    InputError where a file is missing, or holds no encoder of a model with heads; DamagedFile where one is damaged, and
    where the heads are not those that the encoder's file names.
    """
    weights = read_tensors(directory / WEIGHTS_FILE)
    named = weights.metadata.get(_HEADS)
    if named is None:
        raise InputError(f"{directory / WEIGHTS_FILE}: it names no {HEADS_FILE}, expected the model of a run")
    reason = ""
    for name in (HEADS_FILE, EARLIER_HEADS_FILE):
        try:
            file = read_tensors(directory / name, digest_required=True, of="the heads of a run")
        except InputError as error:
            reason = reason or str(error)
            continue
        if file.metadata[DIGEST] == named:
            return weights, file.tensors
        reason = reason or f"{directory / name}: not the heads that {WEIGHTS_FILE} beside it goes with"
    if _metadata(directory / WEIGHTS_FILE).get(_HEADS) != named:  # a run has meanwhile kept a better model
        return read_weights(directory)
    raise DamagedFile(reason)


def names_heads(directory: Path) -> bool:
    """Whether the encoder's file in a folder names heads, as that of a run does; False where it cannot be read."""
    return _HEADS in _metadata(directory / WEIGHTS_FILE)


def has_heads(directory: Path) -> bool:
    """Whether there are heads in a folder, those of the model before among them, for `read_weights` to choose from."""
    return any((directory / name).is_file() for name in (HEADS_FILE, EARLIER_HEADS_FILE))


def settle(directory: Path) -> None:
    """Leave one file of heads in a folder, the one that the encoder's file names: a kill may have left two. Where it
    names none, as where it cannot be read, nothing is removed."""
    path, earlier = directory / HEADS_FILE, directory / EARLIER_HEADS_FILE
    named = _metadata(directory / WEIGHTS_FILE).get(_HEADS)
    if named is None:
        return
    if _metadata(path).get(DIGEST) == named:
        earlier.unlink(missing_ok=True)
    elif _metadata(earlier).get(DIGEST) == named:
        earlier.replace(path)


def _metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a file, whose content is not looked at; none where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
