"""Parts of a set, the same whenever they are taken: a dev set held out of a training set, and fewer examples."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

from concord.bert.errors import InputError
from concord.train.data.tasks import Example

_STRATA = 5  # parts of a score's range that are held out of alike
_SMALL, _LARGE = 4, 0.2  # a group is large that has more rows than the one, and more than that share of those wanted
_SEED = "1"  # of the split alone: runs of other seeds are compared on the same dev set


def held_out(examples: Sequence[Example], share: float, *, classes: bool, place: str) -> list[bool]:
    """Which of the examples are the dev set.

    Examples with equal texts, but for case and white space, are held out together. Of each label (of each fifth of the
    scores, unless `classes`) as near to `share` are held out as its groups allow. Which ones follows from a hash of
    their texts, so that rows that are added leave the others nearly where they were. A group that is large, and too
    large for what is still wanted, is passed over. A label that all have in one group stays in the training set.
    InputError that begins with `place` where nothing could be held out.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for number, example in enumerate(examples):
        groups[_key(example)].append(number)
    strata: dict[float, list[str]] = defaultdict(list)
    borders = [] if classes else _borders([example.label or 0.0 for example in examples])
    for key, members in groups.items():
        label = min(examples[number].label or 0.0 for number in members)
        strata[label if classes else sum(label >= border for border in borders)].append(key)
    out = [False] * len(examples)
    for keys in strata.values():
        wanted, taken = share * sum(len(groups[key]) for key in keys), 0
        chosen = []
        for key in sorted(keys)[: len(keys) - 1]:
            size = len(groups[key])
            large = size > max(_SMALL, wanted * _LARGE)
            if taken + size / 2 > wanted and (taken or large):
                if not large:
                    break
                continue
            taken += size
            chosen.append(key)
        if not chosen and len(keys) > 1:
            # One at least of each label, which then can be judged by it.
            chosen = [min(sorted(keys), key=lambda key: len(groups[key]))]
        for number in (number for key in chosen for number in groups[key]):
            out[number] = True
    if not any(out) or all(out):
        found = f"each of {len(strata)} labels has one text alone" if classes else f"{len(groups)} different texts"
        ask = "is that column the label? Or name one" if classes else "name one"
        raise InputError(f"{place}: {found}, too few to hold out a dev set of; {ask}")
    return out


def evenly_spaced(examples: list[Example], count: int) -> list[Example]:
    """`count` of the examples, evenly spaced and in their order; all of them where there are no more."""
    if len(examples) <= count:
        return examples
    return [examples[index * len(examples) // count] for index in range(count)]


def _key(example: Example) -> str:
    """A hash of an example's texts by which it is grouped and drawn, as hexadecimal digits."""
    texts = [" ".join(text.split()).casefold() for text in (example.first, example.second or "")]
    content = "\n".join([_SEED, *(f"{len(text)} {text}" for text in texts)])
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def _borders(scores: Sequence[float]) -> list[float]:
    """Scores that cut the examples in parts of about the same size."""
    ordered = sorted(scores)
    return [ordered[min(len(ordered) - 1, math.ceil(len(ordered) * part / _STRATA))] for part in range(1, _STRATA)]
