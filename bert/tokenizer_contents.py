"""The content of a tokenizer.json as the directory's class reads texts; what it does not read so is refused by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, shown
from concord.bert.names import TOKENIZER_CONFIG_FILE
from concord.bert.tokenizer_settings import BYTES, UNIGRAM, WORDPIECE, TokenizerSettings, list_of

_CHINESE = "tokenize_chinese_chars"


def _model(content: Mapping[str, Any], expected: str, path: Path, settings: TokenizerSettings) -> dict[str, Any]:
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


def _unlike(path: Path, settings: TokenizerSettings, part: str, found: Any, expected: str) -> InputError:
    return InputError(
        f"{path}: its {part} is {shown(found)}, but {settings.tokenizer_class}, by {settings.class_file}, has "
        f'{expected}; if it is meant, write "tokenizer_class": "PreTrainedTokenizerFast" into {settings.path.name}'
    )


def as_wordpiece(
    content: dict[str, Any], path: Path, settings: TokenizerSettings, lower_case: bool | None
) -> tuple[dict[str, Any], str]:
    """A tokenizer.json as BertTokenizer reads it, and a remark on the case."""
    model = _model(content, WORDPIECE, path, settings)
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


def in_case(content: dict[str, Any], path: Path, kind: str | None, lower_case: bool) -> dict[str, Any]:
    """A tokenizer.json that is taken as it is, in the case that is chosen; InputError where it has no such choice."""
    model, normalizer = content.get("model"), content.get("normalizer")
    if kind or _type(model) != WORDPIECE:
        raise InputError(f"{path}: not WordPiece, whose case alone can be chosen")
    if _type(normalizer) != "BertNormalizer":
        raise InputError(
            f"{path}: its normalizer is {shown(_type(normalizer))}, expected BertNormalizer, whose case can be chosen"
        )
    return {**content, "normalizer": {**normalizer, "lowercase": lower_case}}


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


def as_bytes(content: dict[str, Any], path: Path, settings: TokenizerSettings) -> dict[str, Any]:
    """A tokenizer.json as RobertaTokenizer reads it."""
    _model(content, BYTES, path, settings)
    splitter = content.get("pre_tokenizer")
    if content.get("normalizer") is not None:
        raise _unlike(path, settings, "normalizer", _type(content["normalizer"]), "none")
    if _type(splitter) != "ByteLevel":
        raise _unlike(path, settings, "pre_tokenizer", _type(splitter), "ByteLevel")
    return {
        **content,
        "pre_tokenizer": {**splitter, "add_prefix_space": _prefix_space(splitter, path, settings, False)},
    }


def _prefix_space(part: Mapping[str, Any], path: Path, settings: TokenizerSettings, default: bool) -> bool:
    now, before = settings.flag("add_prefix_space", default), part.get("add_prefix_space", default)
    if "add_prefix_space" not in settings.content and now != before:
        raise InputError(
            f"{path}: its pre_tokenizer has add_prefix_space {shown(before)}, but {settings.path} does not say it, and "
            f'then {settings.tokenizer_class} has {shown(now)}; write "add_prefix_space" there'
        )
    return bool(now)


def as_unigram(content: dict[str, Any], path: Path, settings: TokenizerSettings) -> dict[str, Any]:
    """A tokenizer.json as XLMRobertaTokenizer and CamembertTokenizer read it: its character map, and then words at
    spaces, each with a sign before it."""
    model = _model(content, UNIGRAM, path, settings)
    normalizer = content.get("normalizer")
    parts = list_of(normalizer.get("normalizers")) if _type(normalizer) == "Sequence" else [normalizer]
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
