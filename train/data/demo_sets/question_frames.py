"""What a frame of the paraphrase task is, and the places, languages and numbers that several frames ask about."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Intent:
    """One question that a frame can ask.

    Attributes:
        phrasings: templates that ask it.
        symmetric: whether the question stays the same when the frame's `exchange` slots trade places.
    """

    phrasings: tuple[str, ...]
    symmetric: bool = False


def asks(*phrasings: str, symmetric: bool = False) -> Intent:
    """The intent with these phrasings."""
    return Intent(phrasings, symmetric)


@dataclass(frozen=True, slots=True)
class Frame:
    """Questions about the same things, which differ in what they ask.

    Attributes:
        name: tells its keys from other frames'.
        slots: slot -> its possible values; two slots with the same values never hold the same one.
        intents: the questions.
        exchange: two slots that can trade places, or None.
    """

    name: str
    slots: Mapping[str, tuple[str, ...]]
    intents: tuple[Intent, ...]
    exchange: tuple[str, str] | None = None


CITIES = (
    "Paris", "Rome", "Madrid", "Vienna", "Oslo", "Berlin", "Lisbon", "Prague", "Tokyo", "Cairo", "Boston", "Delhi",
    "New York|New York City|NYC", "Los Angeles|LA", "Chicago", "Sydney", "Toronto", "Athens", "Dublin", "Milan",
)  # fmt: skip
COUNTRIES = (
    "France", "Spain", "Italy", "Japan", "Brazil", "Canada", "Egypt", "India", "Kenya", "Norway", "Sweden", "Greece",
    "the United States|the USA|America", "the United Kingdom|the UK|Great Britain", "Mexico", "Poland", "Chile",
    "the Netherlands|Holland", "Portugal", "Turkey",
)  # fmt: skip
LANGUAGES = ("French", "Spanish", "Italian", "German", "Japanese", "Arabic", "Hindi", "Polish", "Korean", "Swedish")
# Numbers are written as words or as digits.
SMALL_NUMBERS = ("two|2", "three|3", "four|4", "five|5", "six|6", "seven|7", "eight|8", "nine|9", "ten|10")
DEVICES = ("phone", "laptop", "tablet", "television|TV", "desktop computer", "smart watch")
