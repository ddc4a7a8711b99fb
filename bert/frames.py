"""The special tokens that a tokenizer's own template puts around one text and around two, and the segments of all."""

from collections.abc import Mapping
from dataclasses import dataclass

import tokenizers
from tokenizers.processors import TemplateProcessing

from concord.bert.errors import InputError

# Each of them makes a piece at least in some tokenizer; one is enough.
_TEXTS = ("\U00012000", "a", "1", "\u4e00")
_TEMPLATES = {
    "BERT": ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1"),
    "RoBERTa": ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 {sep}:0 $B:0 {sep}:0"),
}


@dataclass(frozen=True)
class Frame:
    """What stands around texts in one sequence.

    ids: the special tokens before, between and after the texts: one group more than there are texts.
    segments: of each of these tokens, in the same groups.
    text_segments: of each text.
    """

    ids: tuple[tuple[int, ...], ...]
    segments: tuple[tuple[int, ...], ...]
    text_segments: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return sum(map(len, self.ids))


def find_frames(tokenizer: tokenizers.Tokenizer, source: str, *, segments: bool = True) -> tuple[Frame, Frame]:
    """The frames of one text and of two, as the tokenizer's template makes them.

    segments: whether segments are those of the template, instead of 0 throughout. InputError that calls the tokenizer
    `source` where no special token comes first, whose state could stand for the sequence, or a text is taken apart.
    """
    frames = []
    for count in (1, 2):
        frame = next((found for text in _TEXTS if (found := _frame(tokenizer, [text] * count))), None)
        if frame is None or not frame.ids[0]:
            raise InputError(
                f"{source}: its template puts no special token before {'a text' if count == 1 else 'two texts'}, "
                "expected one such as [CLS], whose state stands for the sequence"
            )
        if not segments:
            frame = Frame(frame.ids, tuple((0,) * len(group) for group in frame.ids), (0,) * count)
        if not {*frame.text_segments, *(one for group in frame.segments for one in group)} <= {0, 1}:
            raise InputError(f"{source}: its template has a segment other than 0 and 1")
        frames.append(frame)
    return frames[0], frames[1]


def _frame(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> Frame | None:
    """The frame around these texts; None where they make no piece, or the template puts them in another order."""
    encoding = tokenizer.encode(*texts)
    ids: list[list[int]] = [[]]
    segments: list[list[int]] = [[]]
    of_texts: list[int] = []
    before = None
    for number, segment, text in zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True):
        if text is None:
            ids[-1].append(number)
            segments[-1].append(segment)
        elif text != before:
            if text != len(of_texts):
                return None
            of_texts.append(segment)
            ids.append([])
            segments.append([])
        before = text if text is not None else before
    if len(of_texts) != len(texts):
        return None
    return Frame(tuple(map(tuple, ids)), tuple(map(tuple, segments)), tuple(of_texts))


def set_template(tokenizer: tokenizers.Tokenizer, name: str, special: Mapping[str, str]) -> None:
    """Give a tokenizer the template of a class, BERT or RoBERTa, unless it makes the same sequences already."""
    numbers = {token: tokenizer.token_to_id(token) for token in (special["cls"], special["sep"])}
    if None in numbers.values():
        return  # the tokenizer is refused for it, with all that it lacks
    single, pair = (template.format(**special) for template in _TEMPLATES[name])
    template = TemplateProcessing(single=single, pair=pair, special_tokens=list(numbers.items()))
    now = [_frame(tokenizer, [text] * count) for text in _TEXTS for count in (1, 2)]
    earlier, tokenizer.post_processor = tokenizer.post_processor, template
    if now == [_frame(tokenizer, [text] * count) for text in _TEXTS for count in (1, 2)]:
        tokenizer.post_processor = earlier
