"""Frames of the similarity task: scenes with the ways to describe them and the people, things and places in them."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """Scenes of one topic.

    Attributes:
        name: tells its keys from other frames'.
        slots: slot -> its possible values. "subject", "verb" and "object" are always told, "place" nearly always,
            the slots of `DETAILS` may be left out.
        templates: ways to describe a scene, which all mean the same.
    """

    name: str
    slots: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]


DETAILS = ("number", "colour", "manner")

_PEOPLE = (
    "man|gentleman|guy", "woman|lady", "boy|young boy", "girl|young girl", "student|college student",
    "old man|elderly man", "old woman|elderly lady", "teenager|teenage kid", "tourist|traveller",
)  # fmt: skip
_NUMBERS = ("two|2|a couple of", "three|3", "four|4", "five|5", "six|6|half a dozen", "twelve|12|a dozen")
_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange")
# Before the verb an adverb, after it an adverb or a phrase.
_MANNERS = (
    "slowly/slowly|slowly/without any hurry", "quickly/quickly|quickly/in a hurry", "silently/without a word",
    "carefully/carefully|carefully/with great care", "happily/happily|cheerfully/with a smile",
)  # fmt: skip

# Verbs are "gerund/participle".
_PERSON_TEMPLATES = (
    "a {subject} is {verb} {number} {colour} {object} {place} {manner.1}",
    "{place}, a {subject} is {manner} {verb} {number} {colour} {object}",
    "there is a {subject} who is {manner} {verb} {number} {colour} {object} {place}",
    "{number} {colour} {object} are being {verb.1} {manner.1} by a {subject} {place}",
    "{place}, {number} {colour} {object} are {manner} being {verb.1} by a {subject}",
    "we see how a {subject} {place} is {verb} {number} {colour} {object} {manner.1}",
)


def _person_frame(name: str, verbs: tuple[str, ...], objects: tuple[str, ...], places: tuple[str, ...]) -> SceneFrame:
    slots = {"subject": _PEOPLE, "verb": verbs, "object": objects, "place": places, "number": _NUMBERS}
    return SceneFrame(name, {**slots, "colour": _COLOURS, "manner": _MANNERS}, _PERSON_TEMPLATES)


_ANIMALS = (
    "dog|hound", "cat|kitten", "horse|pony", "goat", "rabbit|bunny", "pig|hog", "fox", "hen|chicken", "donkey|mule",
    "monkey|ape",
)  # fmt: skip

FRAMES = (
    _person_frame(
        "cooking",
        (
            "slicing/sliced|cutting/cut|chopping/chopped",
            "frying/fried|sizzling/sizzled",
            "washing/washed|rinsing/rinsed",
            "eating/eaten|munching/munched",
            "throwing away/thrown away|discarding/discarded",
        ),
        ("peppers", "onions", "apples", "potatoes|spuds", "mushrooms", "carrots", "sausages"),
        (
            "in a kitchen",
            "at a market stall|at a stand on the market",
            "on a boat|aboard a ship",
            "by a campfire",
            "in a restaurant|in a diner",
        ),
    ),
    _person_frame(
        "painting",
        (
            "painting/painted|drawing/drawn",
            "selling/sold|offering for sale/offered for sale",
            "carrying/carried",
            "photographing/photographed|taking pictures of/captured in pictures",
            "repairing/repaired|mending/mended",
        ),
        ("chairs|seats", "bicycles|bikes", "boats|ships", "doors", "fences", "statues|sculptures"),
        (
            "in a garden|in a back yard",
            "in a workshop",
            "on the beach|by the sea",
            "in the street|on a road",
            "in front of a church",
        ),
    ),
    _person_frame(
        "reading",
        (
            "reading/read|looking through/looked through",
            "writing/written|penning/penned",
            "burning/burned|setting fire to/set on fire",
            "hiding/hidden|concealing/concealed",
            "sorting/sorted|putting in order/put in order",
        ),
        ("letters", "books|volumes", "newspapers|papers", "postcards", "magazines|journals", "maps"),
        (
            "in a library|among the bookshelves",
            "on a train|in a railway carriage",
            "on a park bench",
            "at the airport|in a terminal",
            "in bed|under a blanket",
        ),
    ),
    _person_frame(
        "sport",
        (
            "throwing/thrown|tossing/tossed",
            "catching/caught|grabbing/grabbed",
            "kicking/kicked|booting/booted",
            "collecting/collected|picking up/picked up",
            "juggling/juggled",
        ),
        ("balls", "bottles", "frisbees|flying discs", "pillows|cushions", "stones|rocks", "snowballs"),
        ("in a stadium|in an arena", "on a field|on a meadow", "on a roof", "in a gym|in a sports hall", "in the snow"),
    ),
    _person_frame(
        "shopping",
        (
            "buying/bought|purchasing/purchased",
            "stealing/stolen|pinching/pinched",
            "ironing/ironed|pressing/pressed",
            "trying on/tried on",
            "sewing/sewn|stitching/stitched",
        ),
        ("shirts", "hats|caps", "dresses|gowns", "coats|jackets", "gloves|mittens", "scarves|shawls"),
        (
            "in a department store|in a big shop",
            "at a flea market",
            "in a cellar|in a basement",
            "in a hotel room",
            "in a tent",
        ),
    ),
    SceneFrame(
        "animals",
        {
            "subject": _ANIMALS,
            "object": _ANIMALS,
            "verb": (
                "chasing/chased|running after/pursued",
                "biting/bitten|nipping/nipped",
                "watching/watched|staring at/observed",
                "licking/licked",
                "carrying/carried",
            ),
            "place": (
                "in a barn|in a stable",
                "on a farm|in a farmyard",
                "in the snow",
                "across a bridge",
                "in a park",
                "along the beach|by the sea",
            ),
            "colour": ("black", "white", "brown|dark brown", "grey", "spotted|speckled"),
            "number": ("big|large", "small|little", "young", "old", "wet|soaked", "dirty|muddy"),
            "manner": _MANNERS[:2],
        },
        (
            "a {number} {subject} is {verb} a {colour} {object} {place} {manner.1}",
            "{place}, a {colour} {object} is being {verb.1} by a {number} {subject} {manner.1}",
            "there is a {colour} {object} that a {number} {subject} is {manner} {verb} {place}",
            "{place}, a {number} {subject} is {manner} {verb} a {colour} {object}",
            "a {colour} {object} is {manner} being {verb.1} {place} by a {number} {subject}",
        ),
    ),
    SceneFrame(
        "news",
        {
            "subject": (
                "storm|hurricane",
                "flood",
                "earthquake|quake",
                "bus crash|coach accident",
                "factory fire|blaze in a factory",
                "bomb|explosion",
                "heat wave|extreme heat",
                "avalanche|snow slide",
            ),
            "verb": (
                "kills/dead|claims the lives of/killed",
                "injures/hurt|wounds/injured",
                "traps/trapped",
                "threatens/in danger|endangers/at risk",
            ),
            "object": (
                "people|persons",
                "workers|labourers",
                "tourists|holidaymakers",
                "soldiers|troops",
                "farmers",
                "pupils|schoolchildren",
            ),
            "place": (
                "in northern Spain|in the north of Spain",
                "in Chile",
                "near Tokyo|outside Tokyo",
                "in western Kenya|in the west of Kenya",
                "in Norway",
                "in southern India|in the south of India",
                "on Crete",
                "in Mexico",
            ),
            "number": ("three|3", "five|5", "eight|8", "eleven|11", "fourteen|14", "twenty|20", "forty|40"),
            "manner": ("on Monday", "on Friday", "at night|overnight", "in the morning|this morning"),
        },
        (
            "{subject} {verb} {number} {object} {place} {manner}",
            "{number} {object} {verb.1} after {subject} {place} {manner}",
            "{place}, {number} {object} {verb.1} in {subject} {manner}",
            "{subject} {place} {manner}: {number} {object} {verb.1}",
            "{number} {object} {verb.1} {place} {manner} because of {subject}",
        ),
    ),
)
