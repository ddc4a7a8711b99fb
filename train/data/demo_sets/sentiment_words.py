"""Word lists of the sentiment task: what is reviewed, and words of each level from -2 to 2."""

from dataclasses import dataclass

Levels = dict[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Domain:
    """A kind of thing that people review.

    Attributes:
        wholes: names of the thing itself.
        parts: its parts in the singular; `plural_parts` those in the plural.
        adjectives: its own adjectives by level, beside those of `ADJECTIVES`.
        facts: neutral clauses, as templates.
    """

    wholes: tuple[str, ...]
    parts: tuple[str, ...]
    plural_parts: tuple[str, ...]
    adjectives: Levels
    facts: tuple[str, ...]


DOMAINS = (
    Domain(
        ("the film", "this movie", "the sequel", "her new thriller", "the documentary"),
        ("the acting", "the script", "the plot", "the camera work", "the ending", "the soundtrack"),
        ("the dialogues", "the special effects", "the fight scenes", "the actors"),
        {
            -2: ("excruciating", "painfully bad", "unwatchable"),
            -1: ("slow", "predictable", "confusing"),
            1: ("funny", "clever", "engaging"),
            2: ("dazzling", "breathtaking", "unforgettable"),
        },
        ("the film runs for (two hours|ninety minutes)", "the story is set in (Lisbon|Ohio|the eighties)"),
    ),
    Domain(
        ("the book", "this novel", "his second novel", "the biography", "the story collection"),
        ("the prose", "the opening chapter", "the story", "the translation", "the final act"),
        ("the characters", "the descriptions", "the middle chapters"),
        {
            -2: ("unreadable", "excruciating"),
            -1: ("dull", "clumsy", "long-winded"),
            1: ("witty", "readable", "thoughtful"),
            2: ("masterful", "unforgettable", "stunning"),
        },
        ("the book has (three|four) hundred pages", "the novel came out in (March|autumn|paperback)"),
    ),
    Domain(
        ("the restaurant", "this bistro", "the new pizzeria", "the noodle bar", "the steak house"),
        ("the food", "the service", "the soup", "the wine list", "the dessert", "the dining room"),
        ("the starters", "the waiters", "the portions", "the desserts"),
        {
            -2: ("inedible", "revolting", "disgusting"),
            -1: ("stale", "greasy", "bland"),
            1: ("tasty", "fresh", "inviting"),
            2: ("delicious", "heavenly", "exquisite"),
        },
        ("the restaurant opens at (noon|six)", "the menu lists (ten|twenty) dishes", "the tables stand by the window"),
    ),
    Domain(
        ("the phone", "this tablet", "the new model", "the headset", "this laptop"),
        ("the screen", "the battery", "the camera", "the keyboard", "the software", "the sound"),
        ("the controls", "the speakers", "the menus"),
        {
            -2: ("useless", "unusable"),
            -1: ("sluggish", "flimsy", "clumsy"),
            1: ("handy", "quick", "sturdy"),
            2: ("flawless", "stunning", "dazzling"),
        },
        ("the phone weighs (two hundred grams|half a pound)", "the box contains a cable", "it comes in (blue|black)"),
    ),
    Domain(
        ("the hotel", "our hostel", "the guest house", "this resort", "the holiday flat"),
        ("the room", "the breakfast", "the view", "the pool", "the lobby", "the bathroom"),
        ("the beds", "the rooms", "the receptionists", "the gardens"),
        {
            -2: ("filthy", "revolting", "uninhabitable"),
            -1: ("noisy", "shabby", "cramped"),
            1: ("cosy", "clean", "comfortable"),
            2: ("luxurious", "breathtaking", "heavenly"),
        },
        ("the hotel has (forty|sixty) rooms", "breakfast is served from (seven|eight)", "the station is a mile away"),
    ),
    Domain(
        ("the concert", "the festival", "last night's show", "the recital", "the band's new album"),
        ("the singing", "the sound", "the orchestra", "the lighting", "the last song", "the support act"),
        ("the drummers", "the solos", "the new songs", "the singers"),
        {
            -2: ("deafening", "unbearable", "excruciating"),
            -1: ("shrill", "monotonous", "tedious"),
            1: ("lively", "tuneful", "spirited"),
            2: ("electrifying", "spellbinding", "unforgettable"),
        },
        ("the concert started at (eight|nine)", "the band played (twelve|fifteen) songs", "the hall seats a thousand"),
    ),
    Domain(
        ("the museum", "this exhibition", "the guided tour", "the castle", "the boat trip"),
        ("the audio guide", "the collection", "the gift shop", "the layout", "the view from the tower"),
        ("the paintings", "the guides", "the displays"),
        {
            -2: ("unbearable", "insufferable"),
            -1: ("crowded", "confusing", "tedious"),
            1: ("interesting", "informative", "inviting"),
            2: ("fascinating", "breathtaking", "spellbinding"),
        },
        ("the museum closes on Mondays", "the tour takes (an hour|forty minutes)", "tickets are sold at the gate"),
    ),
    Domain(
        ("the game", "this puzzle game", "the expansion", "the racing game", "the new version"),
        ("the story mode", "the artwork", "the combat", "the tutorial", "the music", "the level design"),
        ("the puzzles", "the graphics", "the opponents"),
        {
            -2: ("unplayable", "infuriating"),
            -1: ("repetitive", "clumsy", "buggy"),
            1: ("playful", "clever", "entertaining"),
            2: ("addictive", "stunning", "ingenious"),
        },
        ("the game has (thirty|fifty) levels", "the download takes an hour", "up to four people can play"),
    ),
)

ADJECTIVES: Levels = {
    -2: ("awful", "terrible", "dreadful", "horrible", "atrocious", "abysmal", "appalling", "disastrous"),
    -1: ("disappointing", "weak", "poor", "unimpressive", "flawed", "tiresome", "lacklustre", "unpleasant"),
    0: ("average", "ordinary", "acceptable", "middling", "unremarkable", "standard", "okay", "so-so"),
    1: ("good", "nice", "pleasant", "decent", "likeable", "enjoyable", "agreeable", "charming"),
    2: ("superb", "wonderful", "brilliant", "outstanding", "magnificent", "excellent", "marvellous", "fantastic"),
}

INTENSIFIERS = {
    1: ("very", "really", "extremely", "remarkably", "thoroughly", "utterly", "truly", "terribly"),
    2: ("absolutely", "utterly", "truly", "simply", "really", "thoroughly"),
}
DAMPENERS = {
    1: ("slightly", "a little", "somewhat", "a bit", "mildly", "only vaguely"),
    2: ("almost", "nearly", "bordering on", "close to"),
}
NEGATORS = (
    "not",
    "not exactly",
    "far from",
    "anything but",
    "hardly",
    "by no means",
    "never",
    "not at all",
    "not all that",
)

# Feelings of a person towards a thing and effects of a thing on a person, each as past form and base form.
FEELINGS: dict[int, tuple[tuple[str, str], ...]] = {
    -2: (("hated", "hate"), ("detested", "detest"), ("loathed", "loathe"), ("despised", "despise")),
    -1: (("disliked", "dislike"), ("regretted", "regret"), ("resented", "resent")),
    1: (("liked", "like"), ("enjoyed", "enjoy"), ("appreciated", "appreciate")),
    2: (("loved", "love"), ("adored", "adore"), ("treasured", "treasure")),
}
EFFECTS: dict[int, tuple[tuple[str, str], ...]] = {
    -2: (("disgusted", "disgust"), ("appalled", "appal"), ("infuriated", "infuriate"), ("horrified", "horrify")),
    -1: (("bored", "bore"), ("annoyed", "annoy"), ("disappointed", "disappoint"), ("irritated", "irritate")),
    1: (("pleased", "please"), ("amused", "amuse"), ("charmed", "charm"), ("cheered", "cheer")),
    2: (("thrilled", "thrill"), ("delighted", "delight"), ("dazzled", "dazzle"), ("enchanted", "enchant")),
}
PEOPLE = (
    "me",
    "us",
    "my sister",
    "our friends",
    "the children",
    "my parents",
    "everyone at our table",
    "the whole group",
)

# Clauses whose level is not composed from their words; {whole} is the thing reviewed.
IDIOMS: Levels = {
    -2: (
        "{whole} is a (complete|total|shameful) waste of (time|money)",
        "I want my money back for {whole}",
        "I would not wish {whole} on my worst enemy",
        "{whole} is (an insult to|a slap in the face of) anyone who paid",
    ),
    -1: (
        "{whole} left (me|us) cold",
        "{whole} is not worth (the trouble|the money|a second look)",
        "I (expected|hoped for) more from {whole}",
        "{whole} (runs out of steam|falls flat)",
    ),
    0: (
        "I can take or leave {whole}",
        "{whole} has its ups and downs",
        "I have no strong feelings about {whole}",
        "{whole} does what it says and nothing more",
    ),
    1: (
        "{whole} is (well worth|worth) (a look|the money|the trouble)",
        "I have no regrets about {whole}",
        "{whole} put a smile on (my face|our faces)",
        "I could happily (come back to|recommend) {whole}",
    ),
    2: (
        "{whole} is worth every penny",
        "I cannot praise {whole} (enough|highly enough)",
        "{whole} took my breath away",
        "I would not change a (thing|single thing) about {whole}",
    ),
}

OPENINGS = (*[""] * 8, "overall, ", "in the end, ", "to my mind, ", "all things considered, ", "this time, ")
CONTRASTS = (
    "{first}, but {second}",
    "{first}, yet {second}",
    "{first}; still, {second}",
    "although {first}, {second}",
    "even though {first}, {second}",
    "while {first}, {second}",
    "(people|the critics|my friends) told me that {first}, but {second}",
    "{first}; nevertheless {second}",
)
ADDITIONS = ("{first}, and {second}", "{first}; besides, {second}", "{first}, and what is more, {second}")
