"""The tokenizers of model directories against those that transformers finds there, on strings of twelve scripts."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import tokenizers

from concord.bert.errors import InputError
from concord.bert.tokenizer import Tokenizer
from tests.small_tokenizers import SCRIPTS, TOKEN, byte_level_json, script_strings, unigram_json

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
FURTHER = ("[E1]", "[MASK]", "<mask>", "soup", "Soup", "x[E1]y", "[e1]", "<s>", "[SEP]")
STRINGS = script_strings(2000, 7, FURTHER)
SAMPLE = [*script_strings(300, 8), *["The soup was cold soup"] * 20]
# What a table of characters makes of some signs that the strings have; of two letters one becomes two, two become one.
REPLACED = {"\ufb01": "fi", "\u0130": "i\u0307", "\u3000": " ", "\t": " ", "\n": " ", "\u200b": "", "\u2019": "'"}
REPLACED |= {"\u3042\u3044": "\u30a2", "a\u0301": "\u00e1"}
REPLACED |= {chr(capital): chr(capital + 32) for capital in range(0x41, 0x5B)}
# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import json, transformers
from transformers import AutoTokenizer
transformers.logging.set_verbosity_error()
strings, answers = json.load(open("strings.json")), {}
for name in json.load(open("names.json")):
    found = AutoTokenizer.from_pretrained(name)
    pair = found("soup a", "b soup")
    answers[name] = {
        "ids": found(strings, add_special_tokens=False)["input_ids"],
        "single": found("soup")["input_ids"],
        "pair": pair["input_ids"],
        "types": pair.get("token_type_ids"),
        "special": [found.pad_token_id, found.unk_token_id, found.cls_token_id, found.sep_token_id,
                    found.mask_token_id],
        "longest": found.model_max_length,
    }
json.dump(answers, open("answers.json", "w"))
"""


def wordpieces():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "soup", "Soup", "was", "cold"]
    signs = sorted({sign for text in SAMPLE for sign in text if not sign.isspace()})
    return list(dict.fromkeys([*words, *signs, *(f"##{sign}" for sign in signs)]))


def write(folder, kind, files=(), **settings):
    """A directory with a model's config.json and these files, JSON but for texts."""
    folder.mkdir()
    contents = {"config.json": {"model_type": kind, "vocab_size": 5000}, **dict(files)}
    if settings:
        contents["tokenizer_config.json"] = settings
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def from_vocabulary(*more):
    return "\n".join([*wordpieces(), *more]) + "\n"


def wordpiece_json(*, lowercase, more=()):
    vocabulary = {word: number for number, word in enumerate([*wordpieces(), *more])}
    return json.loads(tokenizers.BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase).to_str())


def make_directories(folder):
    """Name -> a model directory."""
    pieces, e1 = wordpieces(), {"content": "[E1]", **TOKEN}
    lower, cased = wordpiece_json(lowercase=True), wordpiece_json(lowercase=False)
    own = wordpiece_json(lowercase=False, more=["[E1]"])
    own["normalizer"]["strip_accents"] = True
    own["pre_tokenizer"] = {"type": "Whitespace"}
    byte_level, unigram = byte_level_json(SAMPLE), unigram_json(SAMPLE)
    decoder = {str(one["id"]): {name: one[name] for name in ("content", *TOKEN)} for one in byte_level["added_tokens"]}
    vocabulary = {"vocab.txt": from_vocabulary()}
    return {
        "words": write(folder / "words", "bert", vocabulary, do_lower_case=True),
        "cased": write(folder / "cased", "bert", vocabulary, do_lower_case=False),
        "accents": write(folder / "accents", "bert", vocabulary, do_lower_case=True, strip_accents=False),
        "chinese": write(folder / "chinese", "distilbert", vocabulary, tokenize_chinese_chars=False),
        "added": write(
            folder / "added", "bert", {**vocabulary, "added_tokens.json": {"[E1]": len(pieces)}}, do_lower_case=True
        ),
        "decoder": write(
            folder / "decoder", "bert", vocabulary, do_lower_case=True, added_tokens_decoder={str(len(pieces)): e1}
        ),
        "additional": write(
            folder / "additional",
            "bert",
            {
                "vocab.txt": from_vocabulary("[E1]"),
                "special_tokens_map.json": {"additional_special_tokens": ["[E1]"], "mask_token": {"content": "[MASK]"}},
            },
            do_lower_case=True,
        ),
        "lower": write(folder / "lower", "electra", {"tokenizer.json": lower}, tokenizer_class="ElectraTokenizer"),
        "case against file": write(
            folder / "case against file", "bert", {"tokenizer.json": lower}, do_lower_case=False, strip_accents=None
        ),
        "file against case": write(
            folder / "file against case", "bert", {"tokenizer.json": cased}, do_lower_case=True, strip_accents=True
        ),
        "as it is": write(
            folder / "as it is", "bert", {"tokenizer.json": own}, tokenizer_class="PreTrainedTokenizerFast", **NAMED
        ),
        "bytes": write(folder / "bytes", "roberta", {"tokenizer.json": byte_level}, added_tokens_decoder=decoder),
        "bytes, a space": write(
            folder / "bytes, a space", "roberta", {"tokenizer.json": byte_level}, add_prefix_space=True
        ),
        "unigram": write(
            folder / "unigram", "xlm-roberta", {"tokenizer.json": unigram}, tokenizer_class="XLMRobertaTokenizerFast"
        ),
        "unigram with its characters": write(
            folder / "unigram with its characters",
            "xlm-roberta",
            {"tokenizer.json": unigram_json(SAMPLE, replaced=REPLACED)},
            tokenizer_class="XLMRobertaTokenizerFast",
        ),
        "unigram of BERT's": write(
            folder / "unigram of BERT's", "bert", {"tokenizer.json": unigram}, tokenizer_class="XLMRobertaTokenizer"
        ),
    }


NAMED = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(name -> directory, name -> what transformers answers); each directory again as Concord writes it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    directories = make_directories(folder)
    for name, directory in list(directories.items()):
        out = folder / f"{name}, written"
        out.mkdir()
        shutil.copy(directory / "config.json", out)
        Tokenizer.load(directory).save(out, 77)
        directories[out.name] = out
    (folder / "strings.json").write_text(json.dumps(STRINGS))
    (folder / "names.json").write_text(json.dumps(list(directories)))
    (folder / "reference.py").write_text(REFERENCE)
    subprocess.run([sys.executable, "reference.py"], check=True, cwd=folder)
    return directories, json.loads((folder / "answers.json").read_text())


@needs_transformers
def test_ids_sequences_and_special_tokens_are_those_of_transformers(answered):
    directories, answers = answered
    for name, directory in directories.items():
        tokenizer, expected = Tokenizer.load(directory), answers[name]
        found = tokenizer.encode(STRINGS)
        unlike = [text for text, own, ids in zip(STRINGS, found, expected["ids"], strict=True) if own.tolist() != ids]
        assert unlike == [], name
        special = [getattr(tokenizer, f"{token}_id") for token in ("pad", "unk", "cls", "sep", "mask")]
        assert special == expected["special"], name
        (one,) = tokenizer.encode(["soup"])
        before, after = tokenizer.single.ids
        assert [*before, *one, *after] == expected["single"], name
        first, second = (ids.tolist() for ids in tokenizer.encode(["soup a", "b soup"]))
        ids, types = tokenizer.pair.ids, tokenizer.pair.segments
        assert [*ids[0], *first, *ids[1], *second, *ids[2]] == expected["pair"], name
        if expected["types"] is not None:
            texts = [
                [segment] * len(text)
                for segment, text in zip(tokenizer.pair.text_segments, (first, second), strict=True)
            ]
            assert [*types[0], *texts[0], *types[1], *texts[1], *types[2]] == expected["types"], name
        if name.endswith(", written"):
            assert expected["longest"] == 77


@pytest.mark.parametrize("script", range(12))
def test_strings_are_of_every_script(script):
    assert len({*STRINGS}) > 1900
    low, high = list(SCRIPTS.values())[script][0]
    assert sum(any(low <= ord(sign) <= high for sign in text) for text in STRINGS) > 100


def test_a_unigrams_table_of_characters_comes_before_its_pieces(tmp_path):
    pieces = []
    for name, replaced in (("with", REPLACED), ("without", None)):
        content = unigram_json(SAMPLE, replaced=replaced)
        directory = write(tmp_path / name, "xlm-roberta", {"tokenizer.json": content})
        pieces.append("".join(pieces_of(directory, "\ufb01xed SOUP\u3000a\u0301")))
    assert pieces[0] == "\u2581fixed\u2581soup\u2581\u00e1"
    assert pieces[1] != pieces[0]


JAPANESE = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab", "do_lower_case": False}


@pytest.mark.parametrize(
    ("kind", "files", "settings", "expected"),
    [
        ("bert", {"vocab.txt": "words"}, JAPANESE, r"tokenizer_class is 'BertJapaneseTokenizer', which is not read"),
        ("bert", {"vocab.txt": "words"}, {"tokenizer_class": ["x"]}, r"tokenizer_class is \['x'\]"),
        (
            "bert",
            {"vocab.txt": "words", "config.json": {"tokenizer_class": "T5Tokenizer"}},
            {},
            r"model.config\.json: tokenizer_class is 'T5Tokenizer', which is not read",
        ),
        (
            "bert",
            {"vocab.txt": "words"},
            {"tokenizer_class": "T5Tokenizer"},
            r"model.tokenizer_config\.json: tokenizer_class is 'T5Tokenizer', which is not read",
        ),
        ("roberta", {"vocab.json": {}, "merges.txt": ""}, {}, r"only vocab\.json.*; convert it, .*save_pretrained"),
        ("camembert", {"sentencepiece.bpe.model": "x"}, {}, r"only sentencepiece\.bpe\.model.*convert it"),
        (
            "roberta",
            {"vocab.txt": "words"},
            {},
            r"WordPiece's vocabulary, but the tokenizer is a RobertaTokenizer, by config",
        ),
        (
            "roberta",
            {"tokenizer.json": "lower"},
            {},
            r"its model is 'WordPiece', but .*, by config\.json, is RobertaTokenizer, whose .* BPE",
        ),
        ("bert", {"tokenizer.json": "bytes"}, {}, r"its model is 'BPE', but the class .* is BertTokenizer"),
        ("bert", {"tokenizer.json": "cased"}, {}, r"do_lower_case False, but .*config\.json does not say it.*write"),
        ("roberta", {"tokenizer.json": "bytes, a space"}, {}, r"add_prefix_space True, but .* does not say it"),
        ("bert", {"tokenizer.json": "split"}, {}, r"its pre_tokenizer is 'Whitespace', but .*, by config"),
        (
            "roberta",
            {"tokenizer.json": "split"},
            {"tokenizer_class": "BertTokenizer"},
            r"its pre_tokenizer is 'Whitespace', but BertTokenizer, by tokenizer_config\.json, has .* tokenizer_config",
        ),
        ("bert", {"vocab.txt": "words", "added_tokens.json": {"[E1]": 7}}, {}, r"would get number \d+, but .* says 7"),
        (
            "bert",
            {"vocab.txt": "words", "added_tokens.json": {"[E1]": "7"}},
            {},
            r"'\[E1\]' is '7', expected the number",
        ),
        ("bert", {"vocab.txt": "words"}, {"added_tokens_decoder": {"x": {}}}, r"added_tokens_decoder is .*, expected"),
        (
            "bert",
            {"vocab.txt": "words"},
            {"added_tokens_decoder": {"9": {"content": 3}}},
            r"a token is .*, expected a te",
        ),
        ("bert", {"vocab.txt": "words"}, {"mask_token": 4}, r"a token is 4, expected a text or an object"),
        ("bert", {"vocab.txt": "words"}, {"mask_token": "[GAP]"}, r"the vocabulary lacks \[GAP\]"),
        (
            "bert",
            {"tokenizer.json": "no template"},
            {"tokenizer_class": "PreTrainedTokenizerFast"},
            r"no special token",
        ),
        (
            "bert",
            {"tokenizer.json": "further"},
            {"added_tokens_decoder": {}},
            r"'\[E1\]' is an added token, but not in",
        ),
    ],
)
def test_what_cannot_be_read_as_its_class_reads_it_is_refused_by_name(tmp_path, kind, files, settings, expected):
    split, further = wordpiece_json(lowercase=True), wordpiece_json(lowercase=True)
    split["pre_tokenizer"] = {"type": "Whitespace"}
    further["added_tokens"].append({"id": len(wordpieces()), "content": "[E1]", **TOKEN})
    made = {
        "words": from_vocabulary,
        "lower": lambda: wordpiece_json(lowercase=True),
        "cased": lambda: wordpiece_json(lowercase=False),
        "bytes": lambda: byte_level_json(SAMPLE),
        "bytes, a space": lambda: byte_level_json(SAMPLE, prefix_space=True),
        "split": lambda: split,
        "further": lambda: further,
        "no template": lambda: wordpiece_json(lowercase=True) | {"post_processor": None},
    }
    contents = {name: made[one]() if isinstance(one, str) and one in made else one for name, one in files.items()}
    directory = write(tmp_path / "model", kind, contents, **settings)
    with pytest.raises(InputError, match=expected) as caught:
        Tokenizer.load(directory)
    assert len(str(caught.value)) <= 500


def pieces_of(directory, text, **more):
    tokenizer = Tokenizer.load(directory, **more)
    return [tokenizer._tokenizer.id_to_token(number) for number in tokenizer.encode([text])[0]]


def test_a_cased_vocabulary_that_nothing_says_how_to_read_is_a_warning_and_a_choice(tmp_path):
    directory = write(tmp_path / "model", "bert", {"vocab.txt": from_vocabulary()})
    remark = Tokenizer.load(directory).remark
    assert "of its words have capitals, as 'The', which no text has once it is in lower case" in remark
    assert "--lower-case no keeps capitals" in remark
    assert pieces_of(directory, "The Soup") == ["the", "soup"]
    assert pieces_of(directory, "The Soup", lower_case=False) == ["The", "Soup"]
    for settings, lower_case in (({}, False), ({}, True), ({"do_lower_case": True}, None)):
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        assert Tokenizer.load(directory, lower_case=lower_case).remark == ""
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert pieces_of(directory, "The Soup", lower_case=False) == ["The", "Soup"]
    lower = write(
        tmp_path / "lower", "bert", {"vocab.txt": "\n".join(["[PAD]", *["[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]])}
    )
    assert Tokenizer.load(lower).remark == ""


def test_the_case_of_other_vocabularies_cannot_be_chosen(tmp_path):
    directory = write(tmp_path / "model", "roberta", {"tokenizer.json": byte_level_json(SAMPLE)})
    with pytest.raises(InputError, match="not WordPiece, whose case alone can be chosen"):
        Tokenizer.load(directory, lower_case=True)
    content = wordpiece_json(lowercase=True) | {"normalizer": {"type": "Lowercase"}}
    directory = write(tmp_path / "own", "bert", {"tokenizer.json": content}, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(InputError, match="its normalizer is 'Lowercase', expected BertNormalizer, whose case"):
        Tokenizer.load(directory, lower_case=True)


@pytest.mark.parametrize("kind", ["bert", "none that is known"])
def test_the_case_of_a_tokenizer_that_was_saved_here_can_be_chosen(tmp_path, kind):
    first = write(tmp_path / "first", "bert", {"vocab.txt": from_vocabulary()}, do_lower_case=True)
    directory = write(tmp_path / "model", kind)
    Tokenizer.load(first).save(directory)
    assert pieces_of(directory, "The Soup") == ["the", "soup"]
    assert pieces_of(directory, "The Soup", lower_case=False) == ["The", "Soup"]
    Tokenizer.load(directory, lower_case=False).save(directory)
    assert pieces_of(directory, "The Soup") == ["The", "Soup"]
    assert pieces_of(directory, "The Soup", lower_case=True) == ["the", "soup"]


def test_without_segments_both_texts_of_a_pair_have_segment_0_and_another_digest(tmp_path):
    directory = write(tmp_path / "model", "bert", {"vocab.txt": from_vocabulary()})
    two, one = Tokenizer.load(directory), Tokenizer.load(directory, segments=False)
    assert (two.pair.text_segments, two.pair.segments) == ((0, 1), ((0,), (0,), (1,)))
    assert (one.pair.text_segments, one.pair.segments) == ((0, 0), ((0,), (0,), (0,)))
    assert one.pair.ids == two.pair.ids
    assert one.digest != two.digest
