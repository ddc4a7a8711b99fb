"""Generates the similarity task: pairs of sentences whose score, 0 to 5, follows from how the second was derived.

The second sentence describes the first one's scene in other words and another order, after some of its slots were
changed. A pair without changes scores 5, and every change takes its cost away. A pair from two topics scores 1 where
both have the same subject, else 0, and 0.2 more for every detail that they happen to share.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from concord.train.data.demo_sets.grammar import as_sentence, expand, normalised, pick, pick_other, split_of
from concord.train.data.demo_sets.scene_frames import DETAILS, FRAMES, SceneFrame

_COST = {"number": 0.6, "colour": 0.6, "manner": 0.4, "place": 1.0, "subject": 1.4, "object": 1.4, "verb": 1.6}
_DROPPED = 0.4
_EXCHANGED = 1.6
_LOWEST_OF_TOPIC = 1.4
_SHARED_SUBJECT = 1.0
_SHARED_DETAIL = 0.2

_DERIVATIONS = ("same", "same", "detail", "detail", "thing", "thing", "action", "exchange", "entity", "unrelated")
_THINGS = ("subject", "object", "place")
# Where a derivation can start, if not everywhere: with things to exchange, or subjects that other topics have too.
_FRAMES_OF = {
    "exchange": tuple(frame for frame in FRAMES if frame.slots["subject"] == frame.slots["object"]),
    "entity": tuple(
        frame for frame in FRAMES if sum(frame.slots["subject"] == other.slots["subject"] for other in FRAMES) > 1
    ),
}
# A changed scene falls into the small splits once in eight times.
_TRIES = 50


@dataclass(frozen=True, slots=True)
class _Scene:
    """What happens, before any wording; a detail that is not told is an empty text."""

    frame: SceneFrame
    slots: Mapping[str, str]

    @property
    def split(self) -> str:
        """Depends on what is told alone, so that all wordings of a scene share it."""
        return split_of("\n".join([self.frame.name, *sorted(self.slots.values())]))

    def with_slots(self, **slots: str) -> "_Scene":
        return replace(self, slots={**self.slots, **slots})


def similarity_pairs(rng: random.Random, sizes: Mapping[str, int]) -> dict[str, list[tuple[str, str, float]]]:
    """Different pairs of sentences with scores from 0 to 5 in steps of 0.2 for each split, as many as `sizes` says."""
    found: dict[str, list[tuple[str, str, float]]] = {split: [] for split in sizes}
    seen: set[frozenset[str]] = set()
    while any(len(found[split]) < size for split, size in sizes.items()):
        kind = pick(rng, _DERIVATIONS)
        scene = _scene(rng, _FRAMES_OF.get(kind, FRAMES))
        split = scene.split
        if len(found.get(split, ())) >= sizes.get(split, 0):
            continue
        derived = _derive(rng, scene, kind)
        if derived is None:
            continue
        other, score = derived
        first, second = _describe(rng, scene, other)
        key = frozenset((normalised(first), normalised(second)))
        if len(key) == 2 and key not in seen:
            seen.add(key)
            found[split].append((first, second, round(score, 1)))
    return found


def _describe(rng: random.Random, scene: _Scene, other: _Scene) -> tuple[str, str]:
    """Both scenes in words; seldom in the same ones, so that common words tell little about the score."""
    template = pick(rng, scene.frame.templates)
    alike = other.frame is scene.frame and other.slots != scene.slots and rng.random() < 0.3
    other_template = template if alike else pick_other(rng, other.frame.templates, template)
    return as_sentence(expand(rng, template, scene.slots)), as_sentence(expand(rng, other_template, other.slots))


def _scene(rng: random.Random, frames: tuple[SceneFrame, ...]) -> _Scene:
    frame = pick(rng, frames)
    slots: dict[str, str] = {}
    for name, values in frame.slots.items():
        told = name not in DETAILS or rng.random() < 0.5
        slots[name] = pick_other(rng, values, *slots.values()) if told else ""
    return _Scene(frame, slots)


def _derive(rng: random.Random, scene: _Scene, kind: str) -> tuple[_Scene, float] | None:
    """Another scene of the same split and its similarity to `scene`; None where none was met."""
    for _ in range(_TRIES):
        if kind in ("entity", "unrelated"):
            derived = _of_another_topic(rng, scene, kind == "entity")
        else:
            derived = _of_same_topic(rng, scene, kind)
        if derived is not None and derived[0].split == scene.split:
            return derived
    return None


def _of_another_topic(rng: random.Random, scene: _Scene, same_subject: bool) -> tuple[_Scene, float] | None:
    other = _scene(rng, FRAMES)
    if other.frame is scene.frame:
        return None
    if same_subject:
        subject = scene.slots["subject"]
        if subject not in other.frame.slots["subject"]:
            return None
        other = other.with_slots(subject=subject)
    elif other.slots["subject"] == scene.slots["subject"]:
        return None
    shared = sum(scene.slots.get(name, "") == other.slots.get(name) != "" for name in DETAILS)
    return other, _SHARED_SUBJECT * same_subject + _SHARED_DETAIL * shared


def _of_same_topic(rng: random.Random, scene: _Scene, kind: str) -> tuple[_Scene, float] | None:
    """The scene with the changes of a derivation; None where it has no detail to change."""
    told = [name for name in DETAILS if scene.slots.get(name)]
    cost = 0.0
    changed: list[str] = []
    if kind == "detail":
        changed = [name for name in told if rng.random() < 0.6]
        if not changed:
            return None
    elif kind == "thing":
        first = pick(rng, _THINGS)
        changed = [name for name in _THINGS if name == first or rng.random() < 0.25]
    elif kind == "action":
        changed = ["verb", *(name for name in _THINGS if rng.random() < 0.3)]
    elif kind == "exchange":
        cost = _EXCHANGED
        scene = scene.with_slots(subject=scene.slots["object"], object=scene.slots["subject"])
    if kind in ("thing", "action"):
        changed += [name for name in told if rng.random() < 0.2]
    for name in changed:
        if name in DETAILS and rng.random() < 0.3:
            scene = scene.with_slots(**{name: ""})
            cost += _DROPPED
        else:
            value = pick_other(rng, scene.frame.slots[name], *scene.slots.values())
            scene = scene.with_slots(**{name: value})
            cost += _COST[name]
    return scene, max(5 - cost, _LOWEST_OF_TOPIC)
