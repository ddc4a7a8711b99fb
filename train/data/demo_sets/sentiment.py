"""Generates the sentiment task: single sentences whose label follows from a compositional rule.

Every clause has a level from -2 (very negative) to 2 (very positive), and the label is that level plus 2:
- an intensifier moves a word's level one away from zero, a dampener one towards it;
- negation flips the sign and leaves at most 1 ("not superb" is -1, "not dull" is 1); a double one changes nothing;
- of two contrasted clauses the last decides; of two added ones both have the same level.
"""

import random
from collections.abc import Callable, Mapping

from concord.train.data.demo_sets.grammar import as_sentence, expand, normalised, pick, split_of
from concord.train.data.demo_sets.sentiment_words import (
    ADDITIONS,
    ADJECTIVES,
    CONTRASTS,
    DAMPENERS,
    DOMAINS,
    EFFECTS,
    FEELINGS,
    IDIOMS,
    INTENSIFIERS,
    NEGATORS,
    OPENINGS,
    PEOPLE,
    Domain,
)

LABELS = 5

Clause = tuple[str, int]


def strengthen(level: int) -> int:
    """The level one further from zero, at most 2; zero stays."""
    return max(-2, min(2, level + _sign(level)))


def dampen(level: int) -> int:
    """The level one nearer to zero; zero stays."""
    return level - _sign(level)


def negate(level: int) -> int:
    """The level of the opposite sign, at most 1; zero stays."""
    return -_sign(level)


def sentiment_sentences(rng: random.Random, sizes: Mapping[str, int]) -> dict[str, list[tuple[str, int]]]:
    """Different sentences with labels 0 to 4 for each split, as many as `sizes` says, all labels equally often.

    Raises ValueError for a size that 5 does not divide.
    """
    if any(size % LABELS for size in sizes.values()):
        raise ValueError(f"sizes are {dict(sizes)}, expected multiples of {LABELS}")
    left = {(split, label): size // LABELS for split, size in sizes.items() for label in range(LABELS)}
    found: dict[str, list[tuple[str, int]]] = {split: [] for split in sizes}
    seen: set[str] = set()
    while any(left.values()):
        text, level = _sentence(rng)
        key = normalised(text)
        split, label = split_of(key), level + 2
        if left.get((split, label)) and key not in seen:
            left[split, label] -= 1
            seen.add(key)
            found[split].append((text, label))
    return found


def _sign(level: int) -> int:
    return (level > 0) - (level < 0)


def _sentence(rng: random.Random) -> Clause:
    domain = pick(rng, DOMAINS)
    text, level = _clause(rng, domain)
    kind = rng.random()
    if kind < 0.65:
        first = _clause_where(rng, domain, lambda other, _: _sign(other) != _sign(level))
        text = expand(rng, pick(rng, CONTRASTS), {"first": first, "second": text})
    elif kind < 0.72:
        first = _clause_where(rng, domain, lambda other, other_text: other == level and other_text != text)
        text = expand(rng, pick(rng, ADDITIONS), {"first": first, "second": text})
    return as_sentence(pick(rng, OPENINGS) + text), level


def _clause_where(rng: random.Random, domain: Domain, fits: Callable[[int, str], bool]) -> str:
    """A clause whose level and text fit."""
    text, level = _clause(rng, domain)
    while not fits(level, text):
        text, level = _clause(rng, domain)
    return text


def _clause(rng: random.Random, domain: Domain) -> Clause:
    return pick(rng, _CLAUSES)(rng, domain)


def _word_level(rng: random.Random) -> int:
    return pick(rng, (-2, -1, 1, 2))


def _subject(rng: random.Random, domain: Domain) -> tuple[str, bool]:
    """A thing to judge, and whether it is in the plural."""
    kind = rng.random()
    if kind < 0.4:
        return pick(rng, domain.wholes), False
    if kind < 0.75:
        return pick(rng, domain.parts), False
    return pick(rng, domain.plural_parts), True


def _adjective(rng: random.Random, domain: Domain, level: int) -> str:
    return pick(rng, ADJECTIVES[level] + domain.adjectives.get(level, ()))


def _adjective_phrase(rng: random.Random, domain: Domain) -> Clause:
    level = _word_level(rng)
    word = _adjective(rng, domain, level)
    kind = rng.random()
    if kind < 0.16:
        return word, level
    if kind < 0.24:
        return _adjective(rng, domain, 0), 0
    if kind < 0.4:
        return f"{pick(rng, INTENSIFIERS[abs(level)])} {word}", strengthen(level)
    if kind < 0.56:
        return f"{pick(rng, DAMPENERS[abs(level)])} {word}", dampen(level)
    if kind < 0.88:
        return f"{pick(rng, NEGATORS)} {word}", negate(level)
    if kind < 0.94:
        first, second = word, _adjective(rng, domain, -level)
        return f"neither {first} nor {second}", 0
    return f"never less than {word}", level


def _judgement(rng: random.Random, domain: Domain) -> Clause:
    subject, plural = _subject(rng, domain)
    verb = pick(rng, ("are", "were") if plural else ("is", "was"))
    phrase, level = _adjective_phrase(rng, domain)
    return f"{subject} {verb} {phrase}", level


def _feeling(rng: random.Random, domain: Domain) -> Clause:
    subject, _ = _subject(rng, domain)
    level = _word_level(rng)
    past, base = pick(rng, FEELINGS[level])
    who = pick(rng, ("I", "we", "my brother", "most visitors", "both of us"))
    kind = rng.random()
    if kind < 0.4:
        return f"{who} {past} {subject}", level
    if kind < 0.6:
        return f"{who} {pick(rng, ('really', 'truly', 'thoroughly'))} {past} {subject}", strengthen(level)
    return f"{who} {pick(rng, ('did not', 'never did', 'did not exactly'))} {base} {subject}", negate(level)


def _effect(rng: random.Random, domain: Domain) -> Clause:
    subject, _ = _subject(rng, domain)
    level = _word_level(rng)
    past, base = pick(rng, EFFECTS[level])
    who = pick(rng, PEOPLE)
    kind = rng.random()
    if kind < 0.4:
        return f"{subject} {past} {who}", level
    if kind < 0.55:
        return f"{subject} {pick(rng, ('did not', 'hardly managed to'))} {base} {who}", negate(level)
    if kind < 0.75:
        return f"{subject} {pick(rng, ('failed to', 'could not'))} {base} {who}", negate(level)
    return f"{subject} never failed to {base} {who}", level


def _opinion(rng: random.Random, domain: Domain) -> Clause:
    """A judgement whose negation stands apart from the adjective."""
    subject, plural = _subject(rng, domain)
    level = _word_level(rng)
    word = _adjective(rng, domain, level)
    template, flips = pick(rng, _OPINIONS)
    slots = {"subject": subject, "word": word, "verb": "were" if plural else "was", "it": "they" if plural else "it"}
    return expand(rng, template, slots), negate(level) if flips else level


_OPINIONS = (
    ("I would not call {subject} {word}", True),
    ("nobody could call {subject} {word}", True),
    ("calling {subject} {word} would be (a stretch|an exaggeration|a lie)", True),
    ("calling {subject} {word} would be no (stretch|exaggeration|lie)", False),
    ("nothing about {subject} was {word}", True),
    ("I (thought|expected|was told) that {subject} would be {word}, and {it} {verb}", False),
    ("I (thought|expected|was told) that {subject} would be {word}, and {it} {verb} not", True),
    ("(everyone in our group|my whole family) found {subject} {word}", False),
    ("(no one in our group|not one of my friends) found {subject} {word}", True),
)


def _idiom(rng: random.Random, domain: Domain) -> Clause:
    level = pick(rng, (-2, -1, 0, 1, 2))
    return expand(rng, pick(rng, IDIOMS[level]), {"whole": pick(rng, domain.wholes)}), level


def _fact(rng: random.Random, domain: Domain) -> Clause:
    return expand(rng, pick(rng, domain.facts), {}), 0


_CLAUSES: tuple[Callable[[random.Random, Domain], Clause], ...] = (
    _judgement,
    _judgement,
    _judgement,
    _feeling,
    _effect,
    _opinion,
    _opinion,
    _idiom,
    _fact,
)
