"""Every function that reads what comes from outside, damaged files for it, and what must hold of all that it takes."""

import gzip
import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from hypothesis import strategies as st
from safetensors.torch import save

from concord.bert.checkpoints import read_checkpoint
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.tokenizer import Tokenizer
from concord.bert.weights import load_weights, to_hugging_face
from concord.train import pretrain
from concord.train.data.course import read_plain_input, read_split
from concord.train.data.tables import TableTask, read_plain_table
from concord.train.data.tasks import BUILT_IN_TASKS, read_tasks, select_tasks, write_tasks
from concord.train.data.texts import read_texts
from concord.train.flags import build_parser, config_from
from concord.train.reporter import SILENT
from concord.train.settings.config import RunConfig
from concord.train.settings.definitions import TableSpec, read_specs
from concord.train.settings.files import read_config
from concord.train.settings.options import flag_of
from concord.train.settings.typed import fine_tuning_config
from tests.reliability.mutations import NUMBERS, TEXTS, damaged, odd_values

SST, _, STS, _ = BUILT_IN_TASKS
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c", "film"]
TASKS_TOML = b"""[spam]
kind = "regression"
low = 1
high = 2.5
stem = "mail"
text_columns = ["subject"]
label_column = "is_spam"
prediction_column = "P"
"""
OWN_TOML = b"""[mail]
train = "mail.csv"
text_columns = ["subject", 2]
label_column = "spam"
labels = ["no", "yes"]
validation_split = 0.25
delimiter = "tab"
limit = 3
weight = 1.5
"""
OWN_CSV = b'text,label\n"a ""fine"",\nfilm",good\nanother film,bad\n"a third",good\nlast one,bad\nreally,bad\n'
OWN_TSV = b'sentence1\tsentence2\tscore\n"a\tb\t1.5\nc\td"\t3\ne\tf\t2\ng\th\t4\ni\tj\t2.5\nk\tl\t3.5\nm\tn\t1\n'
OWN_JSONL = b"".join(
    json.dumps({"label": number % 2 == 0, "text": f"film {number}", "more": None}).encode() + b"\n"
    for number in range(6)
)
TOKEN = {"content": "[E]", "lstrip": False, "normalized": False, "special": True}
TOKENIZER_CONFIG = {
    "do_lower_case": True,
    "strip_accents": None,
    "tokenizer_class": "BertTokenizer",
    "mask_token": {"content": "[MASK]", "lstrip": True},
    "added_tokens_decoder": {str(len(WORDS)): TOKEN},
    "additional_special_tokens": ["[E]"],
}
SPECIAL_TOKENS = {"mask_token": "[MASK]", "additional_special_tokens": ["[E]", TOKEN]}
INDEX = {"metadata": {"total_size": 1}, "weight_map": {"a": "model-0.safetensors", "b": "model-1.safetensors"}}
_SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
MODEL = BertConfig(vocab_size=30, max_position_embeddings=8, **_SIZES)
_PATTERNS = ["(a+)+$", "(a|aa)+$", "(x+x+)+y", "(?=", "[", "\\p{Foo}", "(.*)*", "", "(?:a?){30}a{30}"]


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: what it reads.
        inputs: damaged files.
        read: (folder, file) -> None; fails by AssertionError where it takes what it must not.
        weight: how many inputs it gets for each that another one gets.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], None]
    weight: float = 1.0


def _table(task: Any, rows: list[list[str]], label: str | None) -> bytes:
    header = ["", "id", *task.text_columns, *([task.label_column] if label else [])]
    lines = ["\t".join(header), *("\t".join([str(n), f"x{n}", *row]) for n, row in enumerate(rows))]
    return ("\n".join(lines) + "\n").encode()


SST_TABLE = _table(SST, [[" A fine film .", "3"], ['"quoted ""twice"""', "0"], ["dull", "1.0"]], "label")
STS_TABLE = _table(STS, [["a lamp", "a song", "2.5"], ["x", "y", "0"]], "label")


def _read_split(task: Any, stem: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        (folder / f"{stem}-train.csv").write_bytes(data)
        found = read_split(task, folder, "train", skip_bad_rows=True)
        for example in found.examples:
            assert example.id
            assert example.first
            assert task.low <= example.label <= task.high
        assert all(len(row) < 600 for row in found.bad_rows)

    return read


def _read_plain_input(folder: Path, data: bytes) -> None:
    (folder / "in.tsv").write_bytes(data)
    found = read_plain_input(STS, folder / "in.tsv")
    # A row is a line, unless its cells are quoted, or lines are other bytes than LF.
    if b'"' not in data and b"\n" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        assert len(found) == data.removesuffix(b"\n").count(b"\n"), "an answer a row"


def _read_own(name: str) -> Callable[[Path, bytes], None]:
    def read(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        table = TableTask(TableSpec(name="own", train=name, folder=folder, named_by="--train-file"))
        task = table.task()
        for split in ("train", "dev"):
            found = table.read(task, split, skip_bad_rows=True)
            assert all(one.id and one.first and math.isfinite(one.label) for one in found.examples)
            assert all(len(text) < 600 for text in [*found.bad_rows, *found.notes])
        (folder / "asked.txt").write_bytes(data)
        assert read_plain_table(task, folder / "asked.txt")

    return read


def _read_specs(path: Path) -> None:
    for spec in read_specs(path, confined=True).values():
        assert spec.train
        assert len(spec.text_columns) <= 2


def _read_toml(folder: Path, data: bytes) -> None:
    (folder / "tasks.toml").write_bytes(data)
    (task,) = select_tasks(["spam"], folder)
    write_tasks(folder / "tasks.json", [task])
    assert read_tasks(folder / "tasks.json") == [task]
    assert (folder / f"{task.stem}-train.csv").resolve().is_relative_to(folder.resolve())


def _in_file(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], None]:
    def read_file(folder: Path, data: bytes) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return read_file


def _read_tokenizer(folder: Path) -> None:
    found = Tokenizer.load(folder)
    for piece in found.encode(["a film", "", "é 日本", "x" * 3000, "a" * 200 + "!", "\0", "\ud800"]):
        assert piece.dtype == np.int32
        assert ((piece >= 0) & (piece < found.vocab_size)).all()


def _read_beside_vocabulary(path: Path) -> None:
    (path.parent / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    _read_tokenizer(path.parent)


def _tokenizer_json() -> st.SearchStrategy[bytes]:
    good = json.loads(tokenizers.BertWordPieceTokenizer(vocab={word: n for n, word in enumerate(WORDS)}).to_str())

    def with_pattern(part: str, pattern: str) -> bytes:
        kinds = {
            "normalizer": {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x" * 100},
            "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        }
        return json.dumps(good | {part: kinds[part]}).encode()

    def with_vocabulary(number: int, prefix: str) -> bytes:
        vocabulary = {**good["model"]["vocab"], "z": number}
        model = good["model"] | {"vocab": vocabulary, "continuing_subword_prefix": prefix}
        return json.dumps(good | {"model": model}).encode()

    return st.one_of(
        damaged(json.dumps(good).encode()),
        odd_values(good),
        st.builds(with_pattern, st.sampled_from(["normalizer", "pre_tokenizer"]), st.sampled_from(_PATTERNS)),
        st.builds(with_vocabulary, st.sampled_from([-1, 7, 10**9, 2**31, 2**32]), st.sampled_from(["", "##"])),
    )


def _weights() -> tuple[st.SearchStrategy[bytes], Callable[[Path], Any]]:
    encoder = Encoder(MODEL)
    encoder.initialise(1)
    values = to_hugging_face(dict(encoder.named_parameters()))
    good = save({name: value.detach().clone() for name, value in values.items()}, metadata={"format": "pt"})
    size = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + size])
    rest = good[8 + size :]

    def framed(text: bytes, wrong_length: int | None) -> bytes:
        return struct.pack("<Q", len(text) if wrong_length is None else wrong_length) + text + rest

    def changed(name: str, key: str, value: Any) -> bytes:
        return framed(json.dumps(header | {name: header[name] | {key: value}}).encode(), None)

    names = [name for name in header if name != "__metadata__"]
    shapes = [[2**63, 2**63], [0, 2**64], [2**62, 4], [-1, 8], [10**30], [], [0], [8, 0], None, [0, 0], [0, 10**12]]
    dtypes = ["F64", "F8_E4M3", "I64", "BOOL", "U8", "C64", "F4", "BF16", "?"]
    inputs = st.one_of(
        damaged(good),
        st.builds(framed, odd_values(header), st.sampled_from([None, None, 0, 1, 2**63, 2**64 - 1, 100_000_001])),
        st.builds(
            changed,
            st.sampled_from(names),
            st.sampled_from(["shape", "data_offsets", "dtype"]),
            st.sampled_from([*shapes, *dtypes]),
        ),
    )

    def read(path: Path) -> None:
        found = Encoder(MODEL)
        load_weights(found, path, 1)
        assert all(parameter.isfinite().all() for parameter in found.parameters())

    return inputs, read


def _flags() -> st.SearchStrategy[list[str]]:
    texts = [*NUMBERS, *(text for text in TEXTS if "\0" not in text)]

    def one(option: Any) -> st.SearchStrategy[str]:
        if option.type is bool:
            return st.just(flag_of(option.name))
        choices = [*(option.metadata.get("choices") or option.metadata.get("each") or [])]
        values = st.sampled_from([*choices, *choices, *texts])
        if isinstance(option.default, tuple):
            owners = st.sampled_from(["", "", "sst=", "sts=", "x="])
            values = st.lists(st.builds(str.__add__, owners, values), max_size=3).map(",".join)
        return values.map(lambda value: f"{flag_of(option.name)}={value}")

    return st.lists(st.one_of(*map(one, fields(RunConfig))), min_size=1, max_size=5)


def _read_flags(folder: Path, arguments: list[str]) -> None:
    config = config_from(build_parser().parse(arguments))
    fine_tuning_config(config)


def _read_text(path: Path) -> None:
    config = fine_tuning_config(RunConfig(data=str(path))).data
    found = read_texts(config, SILENT)
    assert len(set(found)) == len(found) >= 2


def readers() -> list[Reader]:
    """All of them."""
    run, model, tasks = asdict(RunConfig()), asdict(MODEL), [asdict(task) for task in BUILT_IN_TASKS]
    pretraining = {name: run[name] for name in pretrain._SETTINGS}
    weights, load = _weights()

    def json_reader(name: str, value: Any, file: str, read: Callable[[Path], Any]) -> Reader:
        inputs = damaged(json.dumps(value).encode()) | odd_values(value)
        return Reader(name, inputs, _in_file(file, read))

    toml = damaged(TASKS_TOML, [b"[[a]]", b"[a.b]", b"\n[sst]\n", b"'''", b"1979-05-27", b"0x" + b"f" * 5000])
    return [
        Reader("a task's table", damaged(SST_TABLE), _read_split(SST, "ids-sst")),
        Reader("a table of pairs", damaged(STS_TABLE), _read_split(STS, "sts")),
        Reader("the input of predict", damaged(_table(STS, [["a", "b"], ["c", "d"]], None)), _read_plain_input),
        Reader("tasks.toml", toml, _read_toml),
        Reader("tasks.toml of tables", damaged(OWN_TOML), _in_file("tasks.toml", _read_specs)),
        Reader("a table of one's own", damaged(OWN_CSV), _read_own("t.csv")),
        Reader("one with tabs", damaged(OWN_TSV), _read_own("t.tsv")),
        Reader("one of JSON lines", damaged(OWN_JSONL), _read_own("t.jsonl")),
        Reader("a packed one", damaged(gzip.compress(OWN_CSV, mtime=0)), _read_own("t.csv.gz")),
        json_reader("a run's tasks", tasks, "tasks.json", read_tasks),
        json_reader("a run's settings", run, "config.json", read_config),
        json_reader("a pre-training's settings", pretraining, "pretrain.json", pretrain.read_settings),
        json_reader("a model's sizes", model, "config.json", BertConfig.read),
        Reader(
            "tokenizer.json",
            _tokenizer_json(),
            _in_file("tokenizer.json", lambda path: _read_tokenizer(path.parent)),
            0.1,
        ),
        Reader(
            "vocab.txt",
            damaged("\n".join(WORDS).encode()),
            _in_file("vocab.txt", lambda path: _read_tokenizer(path.parent)),
        ),
        json_reader("tokenizer_config.json", TOKENIZER_CONFIG, "tokenizer_config.json", _read_beside_vocabulary),
        json_reader("added_tokens.json", {"[E]": len(WORDS)}, "added_tokens.json", _read_beside_vocabulary),
        json_reader("special_tokens_map.json", SPECIAL_TOKENS, "special_tokens_map.json", _read_beside_vocabulary),
        json_reader("an index of weights", INDEX, "model.safetensors.index.json", read_checkpoint),
        Reader("weights", weights, _in_file("model.safetensors", load)),
        Reader("raw text", damaged(b"one text\nanother text\n\na third one\n"), _in_file("raw.txt", _read_text)),
        Reader("flags", _flags(), _read_flags),
    ]
