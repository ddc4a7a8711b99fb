"""The tokenizer: wordpieces without special tokens, from either of a model's two files."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from concord.bert import tokenizer_library
from concord.bert.errors import InputError
from concord.bert.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "fine", "##st", "film", "##s", "!", "e"]


def write_vocabulary(directory, words=(*SPECIAL, *WORDS)):
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return directory


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer.load(write_vocabulary(tmp_path))


def write_json(directory, source, *, padding=False, truncation=False):
    library = tokenizers.Tokenizer.from_str(
        tokenizers.BertWordPieceTokenizer(str(source / "vocab.txt"), lowercase=True).to_str()
    )
    if padding:
        library.enable_padding(length=16)
    if truncation:
        library.enable_truncation(max_length=2)
    library.save(str(directory / "tokenizer.json"))


def test_texts_become_wordpieces_without_special_tokens(tokenizer):
    finest, nothing = tokenizer.encode(["A finest  FILMS!", ""])
    assert finest.dtype == np.int32
    assert finest.tolist() == [5, 6, 7, 8, 9, 10]
    assert nothing.tolist() == []
    assert nothing.dtype == np.int32


def test_an_empty_list_gives_an_empty_list(tokenizer):
    assert tokenizer.encode([]) == []


def test_odd_unicode_is_encoded(tokenizer):
    texts = ["e\u0301 film", "\U0001f600", "a\u2028film\x85", "\x00a\u200b", "a \ud800 a", "\ufeff", "字"]
    unknown = tokenizer.unk_id
    found = [ids.tolist() for ids in tokenizer.encode(texts)]
    assert found[0] == [11, 8]
    assert found[1] == [unknown]
    assert found[2] == [5, 8]
    assert found[3] == [5]
    assert found[4][0] == found[4][-1] == 5
    assert found[5] == []
    assert found[6] == [unknown]


def library_of(tokenizer):
    """What the library itself answers, text by text."""
    return lambda texts: [tokenizer._tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}], ids=str)
def test_texts_of_repeating_words_are_encoded_as_the_library_encodes_each(tmp_path, settings):
    signs = " aeE!\t\n\u0301\u0323\x00\x1c\xa0\u2028\u200b\u03a3\u0130\u5b57\u0e33\u1100\u1161\U0001f600"
    words = [*signs.split(), *WORDS, "##e", "##\u03c3", "\u03c2", "[MASK]", "[mask]", "a" * 101]
    write_vocabulary(tmp_path, list(dict.fromkeys([*SPECIAL, *WORDS, *"aeE", "##e", "##\u03c3", "\u03c2", "i"])))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer, draw = Tokenizer.load(tmp_path), random.Random(1)
    texts = ["", " ", "  a  ", "[MASK] [MASK]a"]
    texts += ["".join(draw.choices([*signs, *words], k=draw.randrange(12))) for _ in range(500)]
    texts += [" ".join(draw.choices(words, k=draw.randrange(12))) for _ in range(500)]
    found = tokenizer.encode(texts)
    assert all(ids.dtype == np.int32 for ids in found)
    assert [ids.tolist() for ids in found] == library_of(tokenizer)(texts)


def test_a_word_is_read_once_however_often_it_occurs(tokenizer, monkeypatch):
    read = []
    whole = Tokenizer._encode_whole
    monkeypatch.setattr(Tokenizer, "_encode_whole", lambda self, texts: read.extend(texts) or whole(self, texts))
    tokenizer.encode(["a film", "film a a", "a"])
    assert read == ["a", "film"]


def test_a_tokenizer_that_joins_words_reads_texts_whole(tmp_path):
    write_json(tmp_path, write_vocabulary(tmp_path))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = ["a fine film", "fine film film", "a"]

    def encoded():
        library.save(str(tmp_path / "tokenizer.json"))
        tokenizer = Tokenizer.load(tmp_path)
        found = [ids.tolist() for ids in tokenizer.encode(texts)]
        assert found == library_of(tokenizer)(texts)
        return found

    apart = encoded()
    library.add_tokens([tokenizers.AddedToken("fine film")])
    joined = encoded()
    assert [len(ids) for ids in apart] == [3, 3, 1]
    assert [len(ids) for ids in joined] == [2, 2, 1]
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split("!", "removed")
    assert encoded()[1] == [joined[1][0], 1]  # a word that holds a space, which the vocabulary lacks


def test_special_tokens_and_size_are_the_vocabularys(tokenizer):
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == len(SPECIAL) + len(WORDS)


def test_a_repeated_word_does_not_push_ids_beyond_the_size(tmp_path):
    tokenizer = Tokenizer.load(write_vocabulary(tmp_path, [*SPECIAL, "a", "a", "film"]))
    assert tokenizer.encode(["film"])[0][0] == tokenizer.vocab_size - 1


def test_both_files_give_the_same_ids(tmp_path, tokenizer):
    directory = tmp_path / "json"
    directory.mkdir()
    write_json(directory, tmp_path)
    texts = ["A finest film!", "unknown a"]
    for left, right in zip(Tokenizer.load(directory).encode(texts), tokenizer.encode(texts), strict=True):
        assert left.tolist() == right.tolist()


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path):
    write_vocabulary(tmp_path)
    write_json(tmp_path, tmp_path, padding=True, truncation=True)
    assert [len(ids) for ids in Tokenizer.load(tmp_path).encode(["a a a a a", "a"])] == [5, 1]


def test_a_saved_tokenizer_is_the_same_one(tmp_path, tokenizer):
    saved = tmp_path / "run"
    saved.mkdir()
    tokenizer.save(saved, 64)
    again = Tokenizer.load(saved)
    assert again.digest == tokenizer.digest
    assert again.encode(["finest films"])[0].tolist() == tokenizer.encode(["finest films"])[0].tolist()


def test_the_digest_depends_on_the_vocabulary_and_not_on_padding(tmp_path, tokenizer):
    write_json(tmp_path, tmp_path, padding=True)
    assert Tokenizer.load(tmp_path).digest == tokenizer.digest
    other = tmp_path / "other"
    other.mkdir()
    assert Tokenizer.load(write_vocabulary(other, [*SPECIAL, *reversed(WORDS)])).digest != tokenizer.digest


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer, expected tokenizer\.json or vocab\.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_cased_vocabulary_is_read_as_its_tokenizer_config_says(tmp_path):
    write_vocabulary(tmp_path, [*SPECIAL, "Paris", "paris", "café", "cafe"])
    ids = [Tokenizer.load(tmp_path).encode(["Paris café"])[0].tolist()]
    for content in (
        {"do_lower_case": False},
        {"strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512} | content))
        ids.append(Tokenizer.load(tmp_path).encode(["Paris café"])[0].tolist())
    assert ids == [[6, 8], [5, 7], [6, 7], [5, 8]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ("[]", "a list, expected an object"),
        ('{"do_lower_case": "no"}', "do_lower_case is 'no', expected true or false"),
        ('{"do_lower_case": null}', "do_lower_case is None, expected true or false"),
    ],
)
def test_a_broken_tokenizer_config_is_named(tmp_path, content, expected):
    write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {expected}"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_that_could_not_name_the_unknown_is_refused_as_it_is_read(tmp_path):
    write_vocabulary(tmp_path)
    write_json(tmp_path, tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["unk_token"] = "[OTHER]"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer \(.*\[UNK\]"):
        Tokenizer.load(tmp_path)


def test_transformers_takes_a_saved_tokenizer_as_it_is(tmp_path):
    transformers = pytest.importorskip("transformers")
    write_vocabulary(tmp_path, [*SPECIAL, "Paris", "paris", "café", "cafe"])
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    saved = tmp_path / "saved"
    saved.mkdir()
    Tokenizer.load(tmp_path).save(saved, 64)
    found = transformers.AutoTokenizer.from_pretrained(saved)
    pair = found("Paris café", "cafe")
    assert pair["input_ids"] == [2, 5, 7, 3, 8, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert found.mask_token_id == 4


@pytest.mark.parametrize("token", SPECIAL)
def test_a_missing_special_token_is_named(tmp_path, token):
    write_vocabulary(tmp_path)
    write_json(tmp_path, tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"] = [added for added in content["added_tokens"] if added["content"] != token]
    del content["model"]["vocab"][token]
    content["post_processor"] = None
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=rf"tokenizer\.json.*\{token}"):
        Tokenizer.load(tmp_path)


WORD_IDS = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"])}
SMALL = json.loads(tokenizers.BertWordPieceTokenizer(vocab=WORD_IDS).to_str())


def split_at(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def grow(content):
    return {"type": "Replace", "pattern": {"String": "a"}, "content": content}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pre_tokenizer": split_at("(a+)+$")}, "retry-limit"),
        ({"normalizer": grow("a" * 100)}, "more than 16 characters or wordpieces of one"),
        ({"normalizer": grow("a" * 10_000_000)}, "SIGABRT"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "not a tokenizer"),
        ({"model": SMALL["model"] | {"vocab": WORD_IDS | {"z": 2**32 - 1}}}, "an id is 4294967295, expected 0 to"),
        ({"model": SMALL["model"] | {"vocab": WORD_IDS | {"z": -1}}}, "an id is -1, expected 0 to"),
        ({"added_tokens": [{"id": 10**30, "content": "x"}]}, "an id is 10+, expected 0 to"),
        ({"model": SMALL["model"] | {"max_input_chars_per_word": 10**9}}, "max_input_chars_per_word is 1000000000"),
        ({"model": None}, "not a tokenizer"),
    ],
)
def test_a_tokenizer_from_outside_that_would_panic_hang_or_fill_the_memory_is_one_line(
    tmp_path, capfd, changes, expected
):
    (tmp_path / "tokenizer.json").write_text(json.dumps(SMALL | changes), encoding="utf-8")
    with pytest.raises(InputError, match=expected) as raised:
        Tokenizer.load(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'tokenizer.json'}: ")
    assert capfd.readouterr() == ("", "")


def test_a_text_that_makes_the_library_panic_is_one_line(tmp_path, capfd, monkeypatch):
    # As in a command: a worker of pytest's has other threads.
    monkeypatch.setattr(tokenizer_library, "runs_alone", lambda: True)
    # No run of one sign, or of two by turns, shows what it does.
    pattern = split_at("(qwz|qwzqwz)+$")
    (tmp_path / "tokenizer.json").write_text(json.dumps(SMALL | {"pre_tokenizer": pattern}), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="the tokenizer cannot take a text"):
        tokenizer.encode(["qwz" * 100 + "!"])
    assert capfd.readouterr().err == ""


SEVERAL_THREADS = """
import os
import sys
import threading
from pathlib import Path
from concord.bert.tokenizer import Tokenizer

odd, before, ends = Tokenizer.load(Path(sys.argv[1])), os.fstat(2), threading.Event()

def encode():
    while not ends.is_set():
        odd.encode(["a b"] * 1000)

threads = [threading.Thread(target=encode) for _ in range(2)]
for thread in threads:
    thread.start()
kept = sum(os.path.samestat(os.fstat(2), before) for _ in range(20000))
ends.set()
for thread in threads:
    thread.join()
print(kept, os.path.samestat(os.fstat(2), before))
"""


def test_while_several_threads_tokenise_what_others_write_to_the_error_output_is_not_lost(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(SMALL | {"pre_tokenizer": split_at("(qwz)+$")}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL_THREADS, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["20000", "True"], done.stderr


def test_a_trial_has_limits_of_time_and_memory(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text(json.dumps(SMALL), encoding="utf-8")
    Tokenizer.load(tmp_path)
    child = tmp_path / "child.py"
    monkeypatch.setattr("concord.bert.tokenizer_trial.tokenizer_child.__file__", str(child))
    monkeypatch.setattr("concord.bert.tokenizer_trial._SECONDS", 1.0)
    child.write_text("import time; time.sleep(30)")
    with pytest.raises(InputError, match="did not end within 1 s"):
        Tokenizer.load(tmp_path)
    child.write_text("import os; os.abort()")
    with pytest.raises(InputError, match="its trial ended with SIGABRT: 20 s and 2 GiB are what it may take"):
        Tokenizer.load(tmp_path)
