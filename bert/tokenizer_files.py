"""What a model directory says of its tokenizer, in up to five files, as Hugging Face's library (5.x) resolves it.

The class that tokenizer_config.json or config.json names decides how texts are read, with tokenizer_config.json's
settings; tokenizer.json or vocab.txt has the vocabulary. Where two files disagree and neither is plainly meant, an
error names both. What cannot be read as the class reads it is refused by name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from concord.bert.errors import InputError, shown
from concord.bert.files import MOST_JSON, exists, read_data, read_json_object
from concord.bert.kinds import ENCODERS
from concord.bert.names import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
)
from concord.bert.tokenizer_library import refusing
from concord.bert.tokenizer_trial import try_tokenizer

SPECIAL = ("pad", "unk", "cls", "sep", "mask")
BRACKETS = {name: f"[{name.upper()}]" for name in SPECIAL}
_ANGLES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
_WORDPIECE, _BYTES, _UNIGRAM = "WordPiece", "BPE", "Unigram"
# Class -> what its model is; "" for classes that take tokenizer.json as it is.
CLASSES = {
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), _WORDPIECE),
    "RobertaTokenizer": _BYTES,
    **dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer"), _UNIGRAM),
    **dict.fromkeys(("PreTrainedTokenizer", "TokenizersBackend"), ""),
}
# sha256 of a tokenizer.json that needs no trial: MiniLM's.
_KNOWN = frozenset({"be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"})
_CONVERT = "from transformers import AutoTokenizer as A; A.from_pretrained('{0}').save_pretrained('{0}')"


@dataclass(frozen=True)
class Found:
    """What a directory's files hold together.

    content: of a tokenizer.json that reads texts as the directory's class does.
    added: tokens that are looked for before anything else, with the number that files give them, None for any.
    special: pad, unk, cls, sep and mask -> the token.
    source: the file of the vocabulary.
    template: what the class puts around texts: BERT, RoBERTa, or "" for what the content says.
    remark: what the user should know, or "".
    """

    content: dict[str, Any]
    added: list[tuple[int | None, tokenizers.AddedToken]]
    special: dict[str, str]
    source: Path
    template: str
    remark: str = ""


def find_tokenizer(directory: Path, lower_case: bool | None = None) -> Found:
    """The tokenizer of a model directory.

    lower_case: whether texts are lower-cased, in place of what the files say; None for what they say.
    Raises InputError where there is none, a file is damaged, its class is none that is known, or files disagree.
    """
    settings = _Settings(directory)
    path = _vocabulary_file(directory)
    kind = CLASSES[settings.tokenizer_class] if settings.tokenizer_class else None
    if path.name == VOCABULARY_FILE:
        if kind not in (None, _WORDPIECE):
            raise InputError(
                f"{path}: WordPiece's vocabulary, but the tokenizer is a {settings.tokenizer_class}, by "
                f"{settings.class_file}"
            )
        content, kind = _from_vocabulary(path), _WORDPIECE
    else:
        data = read_data(path, "a tokenizer", MOST_JSON)
        content = read_json_object(path, "a tokenizer")
        if hashlib.sha256(data).hexdigest() not in _KNOWN:
            try_tokenizer(path, content)
    special = settings.special_tokens(content, kind)
    remark = ""
    if kind == _WORDPIECE:
        content, remark = _as_wordpiece(content, path, settings, lower_case)
    elif lower_case is not None:
        content = _in_case(content, path, kind, lower_case)
    elif kind == _BYTES:
        content = _as_bytes(content, path, settings)
    elif kind == _UNIGRAM:
        content = _as_unigram(content, path, settings)
    template = {_WORDPIECE: "BERT", _BYTES: "RoBERTa", _UNIGRAM: "RoBERTa"}[kind] if kind else ""
    return Found(content, list(settings.added_tokens(content, kind, special)), special, path, template, remark)


def _vocabulary_file(directory: Path) -> Path:
    for name in (TOKENIZER_FILE, VOCABULARY_FILE):
        if exists(directory / name):
            return directory / name
    others = [path.name for path in (directory / "vocab.json", *sorted(directory.glob("*.model"))) if exists(path)]
    if not others:
        raise InputError(f"{directory}: no tokenizer, expected {TOKENIZER_FILE} or {VOCABULARY_FILE}")
    raise InputError(
        f"{directory}: no {TOKENIZER_FILE}, only {others[0]}, which is not read; convert it, outside of this project's "
        f'folder: python -c "{_CONVERT.format(directory)}"'
    )


class _Settings:
    """tokenizer_config.json, special_tokens_map.json, added_tokens.json, and the model's config.json.

    Attributes:
        tokenizer_class: a name in `CLASSES`, None where no file says one; class_file: the one that does.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / TOKENIZER_CONFIG_FILE
        self.content = _object(self.path)
        model = _object(directory / CONFIG_FILE)
        name, self.class_file = self.content.get("tokenizer_class"), TOKENIZER_CONFIG_FILE
        if not name:
            name, self.class_file = model.get("tokenizer_class"), CONFIG_FILE
        kind = model.get("model_type")
        if name is None and kind in ENCODERS.names:
            name = ENCODERS.entry(kind).tokenizer
        if name is not None and (not isinstance(name, str) or name.removesuffix("Fast") not in CLASSES):
            raise InputError(
                f"{directory / self.class_file}: tokenizer_class is {shown(name)}, which is not read; "
                f"expected one of {', '.join(CLASSES)}"
            )
        self.tokenizer_class = name.removesuffix("Fast") if name else None
        # Files of today keep added tokens here, and then the two older files say nothing.
        self._older = {} if "added_tokens_decoder" in self.content else _object(directory / SPECIAL_TOKENS_FILE)

    def flag(self, name: str, default: bool | None) -> bool | None:
        """A setting that is true or false, or `default`."""
        value = self.content.get(name, default)
        if type(value) is not bool and value is not default:
            raise InputError(f"{self.path}: {name} is {shown(value)}, expected true or false")
        return value

    def special_tokens(self, content: Mapping[str, Any], kind: str | None) -> dict[str, str]:
        """pad, unk, cls, sep and mask -> the token: as a file names it, or as the class does by default.

        A tokenizer.json without a class has those in brackets if it has them at all, or else those in angles.
        """
        default = BRACKETS if kind == _WORDPIECE else _ANGLES
        if not kind:
            known = {
                str(token.get("content")) for token in _list(content.get("added_tokens")) if isinstance(token, dict)
            }
            vocabulary = content.get("model", {}).get("vocab", {}) if isinstance(content.get("model"), dict) else {}
            known.update(vocabulary if isinstance(vocabulary, dict) else ())
            default = _ANGLES if BRACKETS["cls"] not in known and _ANGLES["cls"] in known else BRACKETS
        found = {}
        for name in SPECIAL:
            token = _token(self._named(f"{name}_token", default[name]), self.path)
            found[name] = token.content
        return found

    def added_tokens(
        self, content: Mapping[str, Any], kind: str | None, special: Mapping[str, str]
    ) -> Iterator[tuple[int | None, tokenizers.AddedToken]]:
        """Tokens beside the vocabulary's, each with its number where a file gives one."""
        further = self._named("additional_special_tokens", None) or self._named("extra_special_tokens", None) or []
        further = list(further.values()) if isinstance(further, dict) else _list(further)
        tokens = [_token(one, self.path) for one in further]
        decoder = self.content.get("added_tokens_decoder")
        named: set[str] = set()
        if decoder is not None:
            if not isinstance(decoder, dict) or not all(key.isdecimal() and len(key) < 10 for key in decoder):
                raise InputError(f"{self.path}: added_tokens_decoder is {shown(decoder)}, expected tokens by number")
            for number in sorted(decoder, key=int):
                token = _token(decoder[number], self.path)
                named.add(token.content)
                yield int(number), token
            own = [str(one.get("content")) for one in _list(content.get("added_tokens")) if isinstance(one, dict)]
            if kind and (lost := [one for one in own if one not in named and one not in special.values()]):
                raise InputError(
                    f"{self.directory / TOKENIZER_FILE}: {shown(lost[0])} is an added token, but not in the "
                    f"added_tokens_decoder of {self.path}; expected it in both"
                )
        else:
            path = self.directory / ADDED_TOKENS_FILE
            specials = {*special.values(), *(token.content for token in tokens)}
            for text, number in sorted(_object(path).items(), key=lambda item: str(item[1])):
                if type(number) is not int or number < 0:
                    raise InputError(f"{path}: {shown(text)} is {shown(number)}, expected the number of a token")
                named.add(text)
                yield number, tokenizers.AddedToken(text, normalized=text not in specials, special=text in specials)
        yield from ((None, token) for token in tokens if token.content not in named)

    def _named(self, key: str, default: Any) -> Any:
        value = self._older.get(key, self.content.get(key))
        return default if value is None else value


def _object(path: Path) -> dict[str, Any]:
    return read_json_object(path, "an object") if exists(path) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _token(value: Any, path: Path) -> tokenizers.AddedToken:
    """An added token as files have it: its text, or an object; InputError for anything else."""
    if isinstance(value, str) and value:
        return tokenizers.AddedToken(value, special=True)
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {name: value.get(name, default) for name, default in flags.items()}
        flags["special"] = value.get("special", True)
        flags["normalized"] = value.get("normalized", not flags["special"])
        if all(type(flag) is bool for flag in flags.values()):
            return tokenizers.AddedToken(value["content"], **flags)
    raise InputError(f"{path}: a token is {shown(value)}, expected a text or an object with its content")


def _from_vocabulary(path: Path) -> dict[str, Any]:
    """The content of a tokenizer.json from a vocab.txt; whatever the library raises is an InputError."""
    read_data(path, "a tokenizer", MOST_JSON)
    with refusing(f"{path}: not a tokenizer"):
        return json.loads(tokenizers.BertWordPieceTokenizer(str(path)).to_str())


def _model(content: Mapping[str, Any], expected: str, path: Path, settings: _Settings) -> dict[str, Any]:
    """A tokenizer.json's model; InputError where it is not what the class reads."""
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    # Old files do not say it.
    found = model.get("type") or (expected if isinstance(model.get("vocab"), dict | list) else None)
    if found != expected:
        raise InputError(
            f"{path}: its model is {shown(found)}, but the class of the tokenizer, by "
            f"{settings.class_file}, is {settings.tokenizer_class}, whose model is {expected}"
        )
    return model


def _type(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else "nothing"


def _unlike(path: Path, settings: _Settings, part: str, found: Any, expected: str) -> InputError:
    return InputError(
        f"{path}: its {part} is {shown(found)}, but {settings.tokenizer_class}, by {settings.class_file}, has "
        f'{expected}; if it is meant, write "tokenizer_class": "PreTrainedTokenizerFast" into {settings.path.name}'
    )


def _as_wordpiece(
    content: dict[str, Any], path: Path, settings: _Settings, lower_case: bool | None
) -> tuple[dict[str, Any], str]:
    """A tokenizer.json as BertTokenizer reads it, and a remark on the case."""
    model = _model(content, _WORDPIECE, path, settings)
    normalizer = content.get("normalizer")
    if _type(normalizer) != "BertNormalizer":
        raise _unlike(path, settings, "normalizer", _type(normalizer), "BertNormalizer")
    if _type(content.get("pre_tokenizer")) != "BertPreTokenizer":
        raise _unlike(path, settings, "pre_tokenizer", _type(content.get("pre_tokenizer")), "BertPreTokenizer")
    lower = settings.flag("do_lower_case", True) if lower_case is None else lower_case
    strips = settings.flag("strip_accents", None)
    chinese = settings.flag("tokenize_chinese_chars", True)
    was_strips = normalizer.get("strip_accents")
    was_lower = normalizer.get("lowercase")
    for name, now, before in (
        ("do_lower_case", lower, was_lower),
        ("tokenize_chinese_chars", chinese, normalizer.get("handle_chinese_chars")),
        ("strip_accents", lower if strips is None else strips, lower if was_strips is None else was_strips),
    ):
        if name not in settings.content and now != before and not (lower_case is not None and name != _CHINESE):
            raise InputError(
                f"{path}: its normalizer has {name} {shown(before)}, but {settings.path} does not say it, and then "
                f'{settings.tokenizer_class} has {shown(now)}; write "{name}" there'
            )
    remark = ""
    if lower and lower_case is None and "do_lower_case" not in settings.content:
        remark = _out_of_reach(model.get("vocab"), path)
    parts = {"lowercase": lower, "strip_accents": strips, "handle_chinese_chars": chinese, "clean_text": True}
    return {**content, "normalizer": {"type": "BertNormalizer", **parts}}, remark


def _in_case(content: dict[str, Any], path: Path, kind: str | None, lower_case: bool) -> dict[str, Any]:
    """A tokenizer.json that is taken as it is, in the case that is chosen; InputError where it has no such choice."""
    model, normalizer = content.get("model"), content.get("normalizer")
    if kind or _type(model) != _WORDPIECE:
        raise InputError(f"{path}: not WordPiece, whose case alone can be chosen")
    if _type(normalizer) != "BertNormalizer":
        raise InputError(
            f"{path}: its normalizer is {shown(_type(normalizer))}, expected BertNormalizer, whose case can be chosen"
        )
    return {**content, "normalizer": {**normalizer, "lowercase": lower_case}}


_CHINESE = "tokenize_chinese_chars"


def _out_of_reach(vocabulary: Any, path: Path) -> str:
    """A warning where a vocabulary has words with capitals, which no text in lower case has."""
    words = vocabulary if isinstance(vocabulary, dict) else {}
    cased = [word for word in words if word != word.lower() and not (word.startswith("[") and word.endswith("]"))]
    if not cased:
        return ""
    return (
        f"{path}: {len(cased)} of its words have capitals, as {shown(cased[0])}, which no text has once it is in lower "
        f"case, as it is where {TOKENIZER_CONFIG_FILE} has no do_lower_case; --lower-case no keeps capitals"
    )


def _as_bytes(content: dict[str, Any], path: Path, settings: _Settings) -> dict[str, Any]:
    """A tokenizer.json as RobertaTokenizer reads it."""
    _model(content, _BYTES, path, settings)
    splitter = content.get("pre_tokenizer")
    if content.get("normalizer") is not None:
        raise _unlike(path, settings, "normalizer", _type(content["normalizer"]), "none")
    if _type(splitter) != "ByteLevel":
        raise _unlike(path, settings, "pre_tokenizer", _type(splitter), "ByteLevel")
    return {
        **content,
        "pre_tokenizer": {**splitter, "add_prefix_space": _prefix_space(splitter, path, settings, False)},
    }


def _prefix_space(part: Mapping[str, Any], path: Path, settings: _Settings, default: bool) -> bool:
    now, before = settings.flag("add_prefix_space", default), part.get("add_prefix_space", default)
    if "add_prefix_space" not in settings.content and now != before:
        raise InputError(
            f"{path}: its pre_tokenizer has add_prefix_space {shown(before)}, but {settings.path} does not say it, and "
            f'then {settings.tokenizer_class} has {shown(now)}; write "add_prefix_space" there'
        )
    return bool(now)


def _as_unigram(content: dict[str, Any], path: Path, settings: _Settings) -> dict[str, Any]:
    """A tokenizer.json as XLMRobertaTokenizer and CamembertTokenizer read it: its character map, and then words at
    spaces, each with a sign before it."""
    model = _model(content, _UNIGRAM, path, settings)
    normalizer = content.get("normalizer")
    parts = _list(normalizer.get("normalizers")) if _type(normalizer) == "Sequence" else [normalizer]
    maps = [part for part in parts if _type(part) == "Precompiled"]
    # Runs of spaces part words as one space does.
    others = [part for part in parts if part is not None and part not in maps and _type(part) != "Replace"]
    others += [part for part in parts if _type(part) == "Replace" and part.get("pattern") != {"Regex": " {2,}"}]
    if others or len(maps) > 1:
        raise _unlike(path, settings, "normalizer", _type((others or maps)[0]), "a Precompiled character map alone")
    if settings.tokenizer_class == "XLMRobertaTokenizer" and model.get("unk_id") != 3:
        raise _unlike(path, settings, "unk_id", model.get("unk_id"), "3")
    scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    words = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    splitter = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]}
    return {**content, "normalizer": maps[0] if maps else None, "pre_tokenizer": splitter}
