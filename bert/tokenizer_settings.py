"""What the small files of a model directory say of its tokenizer: the class, its settings, special and added tokens."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from concord.bert.errors import InputError, shown
from concord.bert.files import exists, read_json_object
from concord.bert.kinds import ENCODERS
from concord.bert.names import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)

SPECIAL = ("pad", "unk", "cls", "sep", "mask")
BRACKETS = {name: f"[{name.upper()}]" for name in SPECIAL}
_ANGLES = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
WORDPIECE, BYTES, UNIGRAM = "WordPiece", "BPE", "Unigram"
# Class -> what its model is; "" for classes that take tokenizer.json as it is.
CLASSES = {
    **dict.fromkeys(("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), WORDPIECE),
    "RobertaTokenizer": BYTES,
    **dict.fromkeys(("XLMRobertaTokenizer", "CamembertTokenizer"), UNIGRAM),
    **dict.fromkeys(("PreTrainedTokenizer", "TokenizersBackend"), ""),
}


class TokenizerSettings:
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
        default = BRACKETS if kind == WORDPIECE else _ANGLES
        if not kind:
            known = {
                str(token.get("content")) for token in list_of(content.get("added_tokens")) if isinstance(token, dict)
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
        further = list(further.values()) if isinstance(further, dict) else list_of(further)
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
            own = [str(one.get("content")) for one in list_of(content.get("added_tokens")) if isinstance(one, dict)]
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


def list_of(value: Any) -> list[Any]:
    """The list that a file has there, or an empty one where it has something else."""
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
