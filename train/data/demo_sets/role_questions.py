"""Frames of the paraphrase task in which two things play different roles, as in "from {a} to {b}"."""

from concord.train.data.demo_sets.question_frames import CITIES, COUNTRIES, LANGUAGES, Frame, asks

_PARTIES = ("landlord", "teacher", "doctor", "baker", "farmer", "bank", "hospital", "school", "neighbour", "driver")
_CURRENCIES = ("dollars", "euros", "pounds", "yen", "rupees", "francs", "pesos", "kroner")
_ANIMALS = ("horse", "dog", "cat", "rabbit", "bear", "lion", "wolf", "camel", "zebra", "deer", "goat", "fox")

ROLE_FRAMES = (
    Frame(
        "travel",
        {"a": CITIES, "b": CITIES},
        (
            asks(
                "How (much does it cost|expensive is it) to (travel|go) from {a} to {b}?",
                "What is the (usual|typical) price of a (ticket|trip) to {b} from {a}?",
                "What do I (pay|have to spend) if I want to (travel|go) to {b} and start in {a}?",
                "Is it expensive to get to {b} from {a}?",
            ),
            asks(
                "How (long|many hours) does it take to (travel|get) from {a} to {b}?",
                "What is the (usual|typical) travel time to {b} from {a}?",
                "How much time do I need if I want to (travel|go) to {b} and start in {a}?",
                "How long is the (journey|trip) to {b} from {a}?",
            ),
            asks(
                "How far is it from {a} to {b}?",
                "What is the distance between {a} and {b}?",
                "How many miles lie between {a} and {b}?",
                "How far apart are {a} and {b}?",
                symmetric=True,
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "relocation",
        {"a": COUNTRIES, "b": COUNTRIES},
        (
            asks(
                "How do I move from {a} to {b}?",
                "What should I know before I leave {a} and settle in {b}?",
                "I live in {a}; how can I (emigrate|relocate) to {b}?",
                "What are the steps for moving to {b} from {a}?",
            ),
            asks(
                "Do I need a visa to travel from {a} to {b}?",
                "Can citizens of {a} enter {b} without a visa?",
                "Does {b} require a visa from citizens of {a}?",
                "Is it possible to go to {b} from {a} with no visa?",
            ),
            asks(
                "Which country is larger, {a} or {b}?",
                "Of {a} and {b}, which one covers more (land|area)?",
                "How do {a} and {b} compare in size?",
                symmetric=True,
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "exchange",
        {
            "a": _CURRENCIES,
            "b": _CURRENCIES,
            "city": CITIES,
        },
        (
            asks(
                "Where (can|do) I change {a} into {b} in {city}?",
                "What is the best place in {city} to buy {b} with {a}?",
                "Which banks in {city} turn {a} into {b}?",
                "I have {a} and need {b}; where should I go in {city}?",
            ),
            asks(
                "What fee do banks in {city} charge to change {a} into {b}?",
                "How much do I lose in {city} if I buy {b} with {a}?",
                "What does it cost to turn {a} into {b} in {city}?",
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "translation",
        {
            "a": LANGUAGES,
            "b": LANGUAGES,
            "text": ("a letter", "a contract", "a poem", "a recipe", "a song", "a birth certificate", "a manual"),
        },
        (
            asks(
                "How (can|do) I translate {text} from {a} into {b}?",
                "What is the best way to turn {text} written in {a} into {b}?",
                "I have {text} in {a}; how do I get a {b} version?",
            ),
            asks(
                "How much does it cost to have {text} translated from {a} into {b}?",
                "What do translators charge for a {b} version of {text} written in {a}?",
                "What is the (usual|typical) price for turning {text} from {a} into {b}?",
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "animals",
        {
            "a": _ANIMALS,
            "b": _ANIMALS,
        },
        (
            asks(
                "Can a {a} (outrun|run faster than) a {b}?",
                "Is a {a} (faster|quicker) than a {b}?",
                "Would a {a} beat a {b} in a race?",
                "Does a {a} run at a higher speed than a {b}?",
            ),
            asks(
                "Why is a {a} afraid of a {b}?",
                "What makes a {a} fear a {b}?",
                "Why does a {a} run away from a {b}?",
                "For what reason is a {a} scared of a {b}?",
            ),
            asks(
                "Can a {a} and a {b} live together?",
                "Is it possible to keep a {a} and a {b} in the same place?",
                "Do a {a} and a {b} get along?",
                symmetric=True,
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "lawsuit",
        {
            "a": _PARTIES,
            "b": _PARTIES,
        },
        (
            asks(
                "Can a {a} (sue|take legal action against) a {b}?",
                "Can a {b} be sued by a {a}?",
                "Is a {a} allowed to take a {b} to court?",
                "Does the law let a {a} sue a {b}?",
            ),
            asks(
                "How does a {a} get money back from a {b}?",
                "What should a {a} do when a {b} owes him money?",
                "How can a {a} make a {b} pay a debt?",
            ),
        ),
        ("a", "b"),
    ),
    Frame(
        "order of activities",
        {
            "a": ("stretching", "running", "showering", "eating", "studying", "sleeping", "swimming", "meditating"),
            "b": ("stretching", "running", "showering", "eating", "studying", "sleeping", "swimming", "meditating"),
        },
        (
            asks(
                "Is {a} before {b} (bad|harmful)?",
                "What is wrong with {a} before {b}?",
                "Why should I avoid {a} before {b}?",
                "Does {a} right before {b} do any harm?",
            ),
            asks(
                "What are the (benefits|advantages) of {a} before {b}?",
                "Why is {a} before {b} a good idea?",
                "What good does {a} do before {b}?",
            ),
            asks(
                "Which is (healthier|better for my health), {a} or {b}?",
                "For my health, should I choose {a} or {b}?",
                "Does {a} or {b} do more for my health?",
                symmetric=True,
            ),
        ),
        ("a", "b"),
    ),
)
