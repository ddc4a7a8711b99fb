"""Large sets: composed in chunks by several processes, written as they come, and mapped from their file."""

import errno
import json
import subprocess

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.bert.mapped_files import Spooled, map_arrays, parts
from concord.bert.models import load_model
from concord.bert.tensor_files import DamagedFile, read_tensors
from concord.bert.tokenizer import Tokenizer
from concord.train import run
from concord.train.command import run_command
from concord.train.data import tokenized
from concord.train.data.batches import gather
from concord.train.data.composing import compose
from concord.train.data.composing_pool import compose_chunks
from concord.train.data.tasks import Example, select_tasks
from concord.train.data.tokenized import TokenCache, tokenize_split
from tests.bert.test_tokenizer import SMALL
from tests.small_tokenizers import byte_level_json, script_strings, unigram_json
from tests.train.small_runs import command
from tests.train.test_run import entries, same_state
from tests.train.told import Told

SST, STS = select_tasks(["sst", "sts"], None)
NAMED = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
WORDS = ["the", "film", "was", "overcast", "Zebra!", "naïve", "x\ud800", "\u2028", "..."]


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny", seed=1).tokenizer


def made_up(count, seed=1):
    random = np.random.default_rng(seed)

    def text():
        return " ".join(random.choice(WORDS, random.integers(0, 12)))

    return [Example(str(number), text(), text(), float(number % 2)) for number in range(count)]


class Counting(Told):
    """Counts what it is told to have been read."""

    def __init__(self):
        super().__init__()
        self.examples = 0

    def read(self, examples):
        self.examples += examples


def here(chunks, tokenizer, count, **options):
    """Composes in this process, which needs no time to begin."""
    return (compose(texts, tokenizer, **options) for texts in chunks)


@pytest.fixture
def in_chunks(monkeypatch):
    """Sets of more than 30 examples are large, and their files are mapped."""
    monkeypatch.setattr(tokenized, "compose_chunks", here)

    def begin():
        monkeypatch.setattr(tokenized, "_LARGE", 30)
        monkeypatch.setattr(tokenized, "_CHUNK", 30)
        monkeypatch.setattr(tokenized, "_MAPPED", 0)

    return begin


def tokenise(task, examples, tokenizer, cache=None, encoding="joint", reporter=None):
    told = reporter or Told()
    kept = TokenCache(cache, told) if cache else None
    return tokenize_split(
        task, examples, tokenizer, pair_encoding=encoding, max_length=16, cache=kept, reporter=told
    ), told


def assert_equal(found, expected):
    assert (found.digest, found.truncated, found.example_ids) == (
        expected.digest,
        expected.truncated,
        expected.example_ids,
    )
    for name in ("ids", "segments", "cu_seqlens", "labels"):
        own, other = getattr(found, name), getattr(expected, name)
        assert own.dtype == other.dtype
        assert np.array_equal(own, other)


@pytest.mark.parametrize("count", [31, 60, 95])
@pytest.mark.parametrize(("task", "encoding"), [(SST, "joint"), (STS, "joint"), (STS, "separate")])
def test_a_set_in_chunks_is_the_same_set_and_the_same_file(tmp_path, tokenizer, in_chunks, task, encoding, count):
    examples = made_up(count)
    whole, _ = tokenise(task, examples, tokenizer, tmp_path / "whole", encoding)
    in_chunks()
    counting = Counting()
    written, told = tokenise(task, examples, tokenizer, tmp_path / "chunks", encoding, counting)
    assert counting.examples == count
    mapped, _ = tokenise(task, examples, tokenizer, tmp_path / "chunks", encoding)
    kept_nowhere, _ = tokenise(task, examples, tokenizer, None, encoding)
    for found in (written, mapped, kept_nowhere):
        assert_equal(found, whole)
    assert told.lines == []
    assert not mapped.ids.flags.writeable
    assert not mapped.ids.flags.owndata
    (one,), (other,) = ((tmp_path / name).iterdir() for name in ("whole", "chunks"))
    assert one.read_bytes() == other.read_bytes()
    batch, expected = (gather({task.name: split}, {task.name: np.array([30, 2])}).packed for split in (mapped, whole))
    assert batch.ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize("content", [byte_level_json, unigram_json], ids=["byte-level BPE", "Unigram"])
@pytest.mark.parametrize("joint", [False, True])
def test_other_kinds_of_tokenizers_compose_the_same_in_other_processes(tmp_path, content, joint):
    texts = script_strings(120, 3)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content(texts)), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(NAMED), encoding="utf-8")
    other = Tokenizer.load(tmp_path, segments=False)
    options = {"per_example": 2, "joint": joint, "max_length": 24}
    whole = compose(texts, other, **options)
    chunks = compose_chunks(iter([texts[:50], texts[50:]]), other, 2, **options)
    found = tokenized._joined(list(chunks))
    assert {name: found[name].tolist() for name in found} == {name: whole[name].tolist() for name in whole}
    frame = other.pair if joint else other.single
    assert tuple(found["ids"][: len(frame.ids[0])]) == frame.ids[0]
    assert found["segments"].max() == 0


def test_several_processes_answer_in_the_order_of_the_chunks(tokenizer):
    texts = [[f"film {number} " * (1 + number % 3)] * 20 for number in range(7)]
    options = {"per_example": 1, "joint": False, "max_length": 32}
    found = list(compose_chunks(iter(texts), tokenizer, 2, **options))
    expected = list(here(texts, tokenizer, 2, **options))
    assert len(found) == 7
    for own, other in zip(found, expected, strict=True):
        assert {name: array.dtype for name, array in own.items()} == tokenized.DTYPES
        assert all(np.array_equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("ending", ["fails", "is killed", "is left"])
def test_a_process_that_ends_is_one_line_and_none_is_left_behind(tokenizer, monkeypatch, ending):
    begun, popen = [], subprocess.Popen

    def begin(*arguments, **options):
        begun.append(popen(*arguments, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", begin)
    texts = [["film"], ["film"], [3] if ending == "fails" else ["film"]]
    found = compose_chunks(iter(texts), tokenizer, 1, per_example=1, joint=False, max_length=32)
    next(found)
    if ending == "is left":
        found.close()
    else:
        if ending == "is killed":
            begun[0].kill()
        code = {"fails": "1", "is killed": "-9"}[ending]
        with pytest.raises(InputError, match=rf"^a process that tokenises ended \(exit code {code}\), as where memory"):
            list(found)
    assert [process.poll() is not None for process in begun] == [True]


def test_a_text_that_a_process_refuses_is_the_same_line_as_here(tmp_path):
    pattern = {"type": "Split", "pattern": {"Regex": "(qwz|qwzqwz)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(SMALL | {"pre_tokenizer": pattern}), encoding="utf-8")
    odd = Tokenizer.load(tmp_path)
    texts, options = [["qwz" * 100 + "!"]], {"per_example": 1, "joint": False, "max_length": 32}
    lines = []
    for compose_all in (here, compose_chunks):
        with pytest.raises(InputError) as raised:
            list(compose_all(iter(texts), odd, 1, **options))
        lines.append(str(raised.value))
    assert lines[0] == lines[1]
    assert "the tokenizer cannot take a text" in lines[0]


def test_while_a_set_is_written_its_folder_holds_nothing_that_a_kill_could_leave(
    tmp_path, tokenizer, in_chunks, monkeypatch
):
    seen = []

    def watched(chunks, *arguments, **options):
        for chunk in here(chunks, *arguments, **options):
            seen.append(list((tmp_path / "cache").iterdir()))
            yield chunk

    in_chunks()
    monkeypatch.setattr(tokenized, "compose_chunks", watched)
    tokenise(SST, made_up(70), tokenizer, tmp_path / "cache")
    assert seen == [[], [], []]


def test_a_disk_that_fills_up_is_one_warning_and_the_set_is_kept_in_memory(tmp_path, tokenizer, in_chunks, monkeypatch):
    whole, _ = tokenise(SST, made_up(70), tokenizer)
    in_chunks()
    append, calls = Spooled.append, []

    def refuse(self, values):
        calls.append(len(values))
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, values)

    monkeypatch.setattr(Spooled, "append", refuse)
    found, told = tokenise(SST, made_up(70), tokenizer, tmp_path / "cache")
    assert_equal(found, whole)
    assert told.lines == [
        f"warning: {tmp_path / 'cache'}: No space left on device; the tokenised data are not kept for the next run"
    ]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def mapped_file(tmp_path, tokenizer):
    tokenise(STS, made_up(2), tokenizer, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    return path


def test_a_mapped_file_is_what_is_read(mapped_file):
    arrays, metadata = map_arrays(mapped_file, "data")
    file = read_tensors(mapped_file, digest_required=True)
    assert metadata == file.metadata
    assert arrays.keys() == file.tensors.keys()
    assert all(np.array_equal(arrays[name], file.tensors[name].numpy()) for name in arrays)


def test_every_flipped_byte_of_a_mapped_file_is_found_but_those_without_meaning(mapped_file):
    sound = mapped_file.read_bytes()
    expected, metadata = map_arrays(mapped_file, "data")
    expected = {name: array.copy() for name, array in expected.items()}
    silent = 0
    for place in range(len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << place % 8
        mapped_file.write_bytes(flipped)
        try:
            found, also = map_arrays(mapped_file, "data")
        except DamagedFile as error:
            assert str(error).startswith(f"{mapped_file}: ")
            continue
        silent += 1  # as a blank behind the header
        assert also == metadata
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert silent < 10


def test_a_mapped_file_that_is_cut_or_longer_is_damaged(mapped_file):
    sound = mapped_file.read_bytes()
    for content in [sound[:length] for length in range(len(sound))] + [sound + b" "]:
        mapped_file.write_bytes(content)
        with pytest.raises(DamagedFile):
            map_arrays(mapped_file, "data")


def test_a_vector_comes_in_parts_of_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("concord.bert.mapped_files.CHUNK", 16)
    vector = np.arange(10, dtype=np.int32)
    assert [part.tolist() for part in parts(vector)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [part.tolist() for part in parts(vector[:0])] == []
    with Spooled(tmp_path, np.int32) as spooled:
        for part in np.split(vector, [3, 3, 8]):
            spooled.append(part)
        assert spooled.shape == (10,)
        assert b"".join(spooled.blocks()) == vector.tobytes()
        assert list(map(len, spooled.blocks())) == [16, 16, 8]
        with pytest.raises(TypeError, match="int64 values are appended to int32 ones"):
            spooled.append(vector.astype(np.int64))


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_on_mapped_sets_has_the_same_bits(data, tmp_path, in_chunks):
    more = ("--max-steps", "3", "--pair-encoding", "joint,sts=separate")
    assert run_command(run.main, command(data, tmp_path / "a" / "whole", *more)) == 0
    in_chunks()
    tokenized._LARGE = tokenized._CHUNK = 7  # what was there before comes back with the fixture's end
    assert run_command(run.main, command(data, tmp_path / "b" / "mapped", *more)) == 0
    assert same_state(tmp_path / "a" / "whole", tmp_path / "b" / "mapped")
    assert entries(tmp_path / "a" / "whole") == entries(tmp_path / "b" / "mapped")
