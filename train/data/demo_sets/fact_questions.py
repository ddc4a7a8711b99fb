"""Frames of the paraphrase task about skills, countries, work, money and health."""

from concord.train.data.demo_sets.question_frames import CITIES, COUNTRIES, SMALL_NUMBERS, Frame, asks

FACT_FRAMES = (
    Frame(
        "course",
        {
            "skill": (
                "piano",
                "guitar",
                "chess",
                "French",
                "Spanish",
                "Japanese",
                "Python programming|to code in Python",
                "knitting",
                "swimming",
                "photography",
                "algebra",
                "public speaking",
                "drawing",
            ),
            "n": SMALL_NUMBERS,
        },
        (
            asks(
                "How (can|do) I learn {skill} in {n} weeks?",
                "What is the (best|quickest) way to learn {skill} if I have {n} weeks?",
                "I have {n} weeks to learn {skill}; what should I do?",
                "Which plan would teach me {skill} within {n} weeks?",
            ),
            asks(
                "Is it (possible|realistic) to learn {skill} in {n} weeks?",
                "Can anyone learn {skill} within {n} weeks?",
                "Are {n} weeks enough to learn {skill}?",
            ),
            asks(
                "How much does a course of {n} weeks cost to learn {skill}?",
                "What is the price of lessons to learn {skill} for {n} weeks?",
                "What would I pay to learn {skill} for {n} weeks?",
            ),
        ),
    ),
    Frame(
        "country facts",
        {"country": COUNTRIES, "n": SMALL_NUMBERS},
        (
            asks(
                "What are the {n} (largest|biggest) cities in {country}?",
                "Which {n} cities of {country} have the most inhabitants?",
                "Can you name the {n} cities in {country} where most people live?",
            ),
            asks(
                "What are the {n} oldest cities in {country}?",
                "Which {n} cities of {country} were founded first?",
                "Can you name the {n} cities in {country} with the longest history?",
            ),
            asks(
                "What should I see in {country} in {n} days?",
                "Which sights of {country} fit into a trip of {n} days?",
                "I have {n} days in {country}; what is worth a visit?",
            ),
        ),
    ),
    Frame(
        "profession",
        {
            "job": ("a nurse", "a pilot", "a lawyer", "a plumber", "a teacher", "a baker", "a dentist", "a journalist"),
            "country": COUNTRIES,
        },
        (
            asks(
                "How (can|do) I become {job} in {country}?",
                "What does it take to work as {job} in {country}?",
                "Which training does {country} require of {job}?",
                "I want to be {job} in {country}; what should I study?",
            ),
            asks(
                "How much does {job} earn in {country}?",
                "What is the (average|typical) (salary|pay) of {job} in {country}?",
                "Is {job} in {country} paid well?",
                "What can I expect to make as {job} in {country}?",
            ),
        ),
    ),
    Frame(
        "age limits",
        {
            "n": ("twelve|12", "thirteen|13", "fourteen|14", "fifteen|15", "sixteen|16", "seventeen|17", "eighteen|18"),
            "act": (
                "drive a car",
                "open a bank account",
                "work full time",
                "travel alone",
                "get a tattoo",
                "buy a knife",
                "rent a flat",
                "donate blood",
                "fly a plane",
            ),
            "country": COUNTRIES,
        },
        (
            asks(
                "Is it legal to {act} at the age of {n} in {country}?",
                "Does the law of {country} let people aged {n} {act}?",
                "Am I allowed to {act} in {country} if I am {n}?",
                "I am {n} years old; may I {act} in {country}?",
            ),
            asks(
                "Do I need my parents' permission to {act} in {country} at the age of {n}?",
                "Must my parents agree if I am {n} and want to {act} in {country}?",
                "Can I {act} in {country} at {n} if my parents say no?",
            ),
        ),
    ),
    Frame(
        "money",
        {
            "sum": ("500", "800", "2,000", "3,000", "5,000", "9,000", "20,000", "60,000"),
            "unit": ("dollars", "euros", "pounds"),
            "who": ("student", "retired teacher", "young couple", "single parent", "freelancer", "beginner"),
        },
        (
            asks(
                "How should a {who} invest {sum} {unit}?",
                "What is the best investment for a {who} with {sum} {unit}?",
                "Where should a {who} put {sum} {unit} to earn interest?",
            ),
            asks(
                "How can a {who} borrow {sum} {unit}?",
                "What is the best loan for a {who} who needs {sum} {unit}?",
                "Where should a {who} ask for a loan of {sum} {unit}?",
            ),
            asks(
                "How (long|many months) does a {who} need to save {sum} {unit}?",
                "How soon can a {who} put aside {sum} {unit}?",
                "When will a {who} have saved {sum} {unit}?",
            ),
        ),
    ),
    Frame(
        "weight",
        {
            "sport": ("swimming", "cycling", "yoga", "rowing", "boxing", "dancing", "hiking", "tennis", "climbing"),
            "n": SMALL_NUMBERS,
        },
        (
            asks(
                "Can I lose {n} kilos through {sport}?",
                "Does {sport} help to get {n} kilos lighter?",
                "Will I weigh {n} kilos less if I take up {sport}?",
                "Is {sport} a good way to (shed|drop) {n} kilos?",
            ),
            asks(
                "Can I gain {n} kilos through {sport}?",
                "Does {sport} help to get {n} kilos heavier?",
                "Will I weigh {n} kilos more if I take up {sport}?",
                "Is {sport} a good way to put on {n} kilos?",
            ),
        ),
    ),
    Frame(
        "season",
        {"city": CITIES, "who": ("a family", "a student", "hikers", "older people", "two people", "a school class")},
        (
            asks(
                "What is the best (month|season|time of the year) for {who} to visit {city}?",
                "When should {who} go to {city}?",
                "In which (month|season) is {city} at its best for {who}?",
            ),
            asks(
                "What is the worst (month|season|time of the year) for {who} to visit {city}?",
                "When should {who} not go to {city}?",
                "In which (month|season) should {who} avoid {city}?",
            ),
            asks(
                "What is the best hotel for {who} in {city}?",
                "Where should {who} stay in {city}?",
                "Which hotel in {city} suits {who}?",
            ),
        ),
    ),
)
