"""Frames of the paraphrase task about the home: pets, stains, machines, habits and recipes."""

from concord.train.data.demo_sets.question_frames import DEVICES, SMALL_NUMBERS, Frame, asks

HOME_FRAMES = (
    Frame(
        "food for pets",
        {
            "animal": ("dogs", "cats", "rabbits", "hamsters", "parrots", "goldfish", "turtles", "chickens", "ponies"),
            "food": (
                "grapes",
                "bread",
                "carrots",
                "cheese",
                "raw eggs",
                "apples",
                "peanuts",
                "chocolate",
                "rice",
                "onions",
                "lettuce",
                "bananas",
            ),
        },
        (
            asks(
                "Can {animal} eat {food}?",
                "(Is it safe|Is it OK) to give {food} to {animal}?",
                "Are {animal} able to digest {food}?",
                "May I feed {animal} with {food}?",
            ),
            asks(
                "Why can't {animal} eat {food}?",
                "What makes {food} bad for {animal}?",
                "Why should I never give {food} to {animal}?",
                "For what reason must {animal} not be fed with {food}?",
            ),
            asks(
                "How (much|many) {food} can {animal} eat a day?",
                "What amount of {food} is right for {animal}?",
                "What is the daily portion of {food} for {animal}?",
            ),
        ),
    ),
    Frame(
        "stains",
        {
            "stain": ("red wine", "coffee", "ink", "blood", "grass", "candle wax", "olive oil", "paint", "lipstick"),
            "fabric": ("a carpet", "jeans", "a silk shirt", "a white dress", "leather", "a sofa", "wool", "a mattress"),
        },
        (
            asks(
                "How (can|do) I (remove|clean) {stain} from {fabric}?",
                "What is the best way to get {stain} out of {fabric}?",
                "I spilled {stain} on {fabric}; how do I clean it?",
                "What takes {stain} stains off {fabric}?",
            ),
            asks(
                "How (can|do) I (protect|keep) {fabric} from {stain}?",
                "What is the best way to prevent {stain} stains on {fabric}?",
                "What stops {stain} from staining {fabric}?",
            ),
            asks(
                "Why is it so hard to remove {stain} from {fabric}?",
                "What makes {stain} stay on {fabric} for so long?",
                "Why does {stain} not come out of {fabric}?",
            ),
        ),
    ),
    Frame(
        "software",
        {
            "app": (
                "a web browser",
                "a photo editor",
                "an antivirus program",
                "a music player",
                "a chess game",
                "a spell checker",
                "an alarm clock app",
                "a mail program",
            ),
            "device": DEVICES,
        },
        (
            asks(
                "How (can|do) I install {app} on my {device}?",
                "What are the steps to (set up|put) {app} on my {device}?",
                "How do I get {app} to run on a new {device}?",
                "I want {app} on my {device}; how do I add it?",
            ),
            asks(
                "How (can|do) I uninstall {app} on my {device}?",
                "What are the steps to (remove|delete) {app} from my {device}?",
                "How do I get rid of {app} on a new {device}?",
                "I do not want {app} on my {device}; how do I delete it?",
            ),
            asks(
                "Which is the best free replacement for {app} on a {device}?",
                "What can I use instead of {app} on my {device} without paying?",
                "Is there any free alternative to {app} on a {device}?",
            ),
        ),
    ),
    Frame(
        "habit",
        {
            "habit": (
                "drinking coffee",
                "eating meat",
                "smoking",
                "gambling",
                "playing video games",
                "reading in bed",
                "watching the news",
                "skipping breakfast",
                "working at night",
                "talking to myself",
            ),
            "n": SMALL_NUMBERS,
        },
        (
            asks(
                "How (can|do) I (stop|quit|give up) {habit} after {n} years?",
                "What helps to break the habit of {habit} after {n} years?",
                "I want to stop {habit} after {n} years; what should I do?",
            ),
            asks(
                "How (can|do) I (start|take up) {habit} again after {n} years?",
                "What helps to return to {habit} after {n} years?",
                "I want to go back to {habit} after {n} years; what should I do?",
            ),
            asks(
                "What happens to my body after {n} years of {habit}?",
                "How does {habit} for {n} years (change|affect) my body?",
                "Which effects on my health do {n} years of {habit} have?",
            ),
        ),
    ),
    Frame(
        "recipe",
        {
            "dish": (
                "pancakes",
                "pizza",
                "a cake",
                "lasagne",
                "tomato soup",
                "cookies",
                "bread",
                "curry",
                "an omelette",
            ),
            "item": ("eggs", "milk", "butter", "flour", "sugar", "salt", "cheese", "yeast", "garlic"),
        },
        (
            asks(
                "How (can|do) I make {dish} without {item}?",
                "What is a good recipe for {dish} that needs no {item}?",
                "I have no {item}; can I still make {dish}?",
                "Is there a way to cook {dish} if {item} must not be in it?",
            ),
            asks(
                "How (can|do) I make {dish} with {item}?",
                "What is a good recipe for {dish} that uses {item}?",
                "I have {item}; how can I use it to make {dish}?",
                "Is there a way to cook {dish} if {item} must be in it?",
            ),
        ),
    ),
    Frame(
        "repairs",
        {
            "device": (*DEVICES, "printer", "washing machine", "dishwasher", "camera"),
            "problem": ("so slow", "so loud", "so hot", "always frozen", "full of dust", "dead", "wet inside"),
        },
        (
            asks(
                "Why is my {device} {problem}?",
                "What is the (reason|cause) when a {device} is {problem}?",
                "My {device} is {problem}; what went wrong?",
            ),
            asks(
                "What should I do when my {device} is {problem}?",
                "How do I fix a {device} that is {problem}?",
                "My {device} is {problem}; how can I repair it?",
            ),
            asks(
                "Can I return a {device} that is {problem}?",
                "Will the shop take my {device} back when it is {problem}?",
                "My {device} is {problem}; do I get my money back?",
            ),
        ),
    ),
)
