"""Mistakes by kind: each kind is what its name says, counts add up, pages hold no text of the data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bench import mistakes
from bench.mistake_kinds import OPPOSITES, Case, kinds_of, names_of, negated, words_of
from bench.mistake_pages import difference, page_of
from concord.bert.errors import InputError
from concord.train.data.tasks import Example
from tests.train.made_up_runs import TASKS, answers_of, step, write_run
from tests.train.small_runs import write_table

SST, PARAPHRASE, STS = TASKS
PAGES = Path(__file__).resolve().parents[2] / "docs" / "papers" / "mistakes"
SENTENCES = [
    ("A film that is not dull , but long .", 3),
    ("The best of Bergman", 4),
    ("It does n't work", 0),
    ("Fine", 2),
]
PAIRS = [
    ("What is the best phone?", "What is the worst phone?", 0),
    ("Who beats Ada at chess?", "Who beats Bob at chess?", 0),
    ("How do I learn to cook?", "Which way leads into a kitchen's craft?", 1),
    ("Why is it not cold in May 2016?", "Why is it cold in May 2017?", 0),
    ("Is red before blue?", "Is blue before red?", 0),
]


def kinds_of_example(task, *texts, label):
    first, second = [*texts, None][:2]
    case = Case(Example("x", first, second, float(label)))
    return {(kind.group, kind.name) for kind in kinds_of(task) if kind.holds(case)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It does n't cost 1,000.50 !", ["it", "does", "n't", "cost", "1,000.50"]),
        ("Don’t  stop-me", ["don't", "stop", "me"]),
        ("Été d'Ivan", ["été", "d'ivan"]),
        ("?!", []),
    ],
)
def test_words_are_letters_with_their_apostrophes_and_numbers(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize("text", ["it is not so", "it isn't so", "it does n't", "Nobody", "I cannot", "he dont"])
def test_what_denies_is_found(text):
    assert negated(words_of(text))


@pytest.mark.parametrize("text", ["a knot", "notable", "noon", "it is"])
def test_what_does_not_deny_is_not(text):
    assert not negated(words_of(text))


def test_names_have_a_capital_and_do_not_begin_a_sentence():
    assert names_of("Where is Paris? Ask Ada Lovelace. I know") == {"paris", "ada", "lovelace"}


def test_no_word_is_its_own_opposite_and_no_pair_stands_twice():
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in OPPOSITES)
    assert len({frozenset(pair) for pair in OPPOSITES}) == len(OPPOSITES)


def test_each_sentence_is_of_the_kinds_that_it_shows():
    found = [kinds_of_example(SST, text, label=label) for text, label in SENTENCES]
    short = ("length", "up to 9 words")
    assert found[0] == {
        short,
        ("negation", "a word that denies"),
        ("contrast", "a word of contrast, such as but"),
        ("gold label", "3"),
    }
    assert ("superlatives", "best, worst, most, least and the like") in found[1]
    assert ("names", "a name") in found[1]
    assert found[3] == {short, ("negation", "none"), ("gold label", "2")}
    assert kinds_of_example(SST, "a " * 9, label=1) & {short}
    assert kinds_of_example(SST, "a " * 10, label=1) & {("length", "10 to 19 words")}
    assert kinds_of_example(SST, "a " * 30, label=1) & {("length", "30 words and more")}
    assert ("numbers", "a number") in kinds_of_example(SST, "In 1999", label=1)


def test_each_pair_is_of_the_kinds_that_it_shows():
    found = [kinds_of_example(PARAPHRASE, *texts, label=label) for *texts, label in PAIRS]
    no = "no paraphrase"
    best = {("opposites", "best against worst itself"), ("opposites", f"the same, {no}")}
    assert best | {("shared words and meaning", f"six tenths and more, {no}")} <= found[0]
    assert [bool(best & own) for own in found] == [True, False, False, False, False]
    other_names = ("names", "each text has one that the other lacks")
    assert [other_names in own for own in found] == [False, True, False, False, False]
    assert {("question words", "the texts begin with different ones"), ("shared words", "under a quarter")} <= found[2]
    assert ("shared words and meaning", "under a quarter, a paraphrase") in found[2]
    assert {("negation", "in one text alone"), ("numbers", "one that the other text lacks")} <= found[3]
    assert [("shared words and meaning", "the same words in another order") in own for own in found] == [
        *(False, False, False, False),
        True,
    ]


def test_both_texts_count_in_a_pairs_length_and_one_may_be_much_longer():
    assert ("length", "15 to 19 words") in kinds_of_example(STS, "a " * 5, "b " * 10, label=0)
    unequal = ("length", "one text at least twice as long as the other")
    assert unequal in kinds_of_example(STS, "a " * 5, "b " * 10, label=0)
    assert unequal not in kinds_of_example(STS, "a " * 6, "b " * 10, label=0)


def test_an_example_between_alike_and_unlike_is_neither():
    for label, names in ((2.0, {"gold at most 2"}), (2.5, set()), (4.0, {"gold at least 4"})):
        found = kinds_of_example(STS, "one", "two", label=label)
        assert {name for group, name in found if group == "gold label"} == names


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [[f"sst-{n}", text, label] for n, (text, label) in enumerate(SENTENCES)]
    write_table(folder / "ids-sst-dev.csv", ["", "id", "sentence", "sentiment"], rows)
    for task, stem, label in ((PARAPHRASE, "quora", "is_duplicate"), (STS, "sts", "similarity")):
        rows = [[f"{task.name}-{n}", *texts, float(gold)] for n, (*texts, gold) in enumerate(PAIRS)]
        write_table(folder / f"{stem}-dev.csv", ["", "id", "sentence1", "sentence2", label], rows)
    return folder


@pytest.fixture
def run(tmp_path, data):
    golds = [gold for *_, gold in PAIRS]
    answers = {
        "sst": answers_of(SST, [label for _, label in SENTENCES], [4, 4, 1, 0]),
        "paraphrase": answers_of(PARAPHRASE, golds, [1, 0, 0, 1, 0]),
        "sts": answers_of(STS, golds, [0.9, 1.0, 3.0, 0.0, 0.0]),
    }
    return write_run(tmp_path / "run", [step(1)], answers, data=str(data), surgery="pcgrad")


def test_counts_are_those_of_the_runs_answers_and_pages_are_made_of_them(run, data, tmp_path):
    out = tmp_path / "out"
    mistakes.main([str(run), "--data", str(data), "--out", str(out)])
    results = json.loads((out / "results.json").read_text())
    assert results["run"]["command"] == "python -m train.run --data DIR --surgery pcgrad"
    whole = {
        task: tuple(own[name] for name in ("examples", "mistakes", "too_high", "too_low"))
        for task, own in results["tasks"].items()
    }
    # STS: an answer 1 point off is a mistake, one .9 off is none.
    assert whole == {"sst": (4, 3, 2, 1), "paraphrase": (5, 3, 2, 1), "sts": (5, 2, 2, 0)}
    kinds = {(kind["group"], kind["name"]): kind for kind in results["tasks"]["paraphrase"]["kinds"]}
    best = kinds["opposites", "best against worst itself"]
    assert (best["examples"], best["mistakes"], best["too_high"], best["too_low"]) == (1, 1, 1, 0)
    written = {path.name: path.read_text() for path in out.iterdir()}
    assert set(written) == {"results.json", "sst.md", "paraphrase.md", "sts.md"}
    texts = [text for text, _ in SENTENCES] + [text for *pair, _ in PAIRS for text in pair]
    assert [text for text in texts if len(words_of(text)) > 1 and any(text in page for page in written.values())] == []
    assert str(tmp_path) not in "".join(written.values())
    assert (
        "| opposites | best against worst itself | 1 | 20.0% | 1 | 100.0% ± 0.0% | 1.67 | 1 | 0 |"
        in written["paraphrase.md"]
    )
    (out / "sst.md").unlink()
    mistakes.main(["--pages", "--out", str(out)])
    assert {path.name: path.read_text() for path in out.iterdir()} == written


def test_a_difference_is_in_standard_errors_of_two_shares():
    whole = {"examples": 200, "mistakes": 100}
    assert difference({"examples": 100, "mistakes": 60}, whole) == pytest.approx(0.2 / np.sqrt(0.25 * 2 / 100))
    assert difference({"examples": 100, "mistakes": 40}, whole) == pytest.approx(-0.2 / np.sqrt(0.25 * 2 / 100))
    assert difference({"examples": 0, "mistakes": 0}, whole) == 0
    assert difference({"examples": 200, "mistakes": 100}, whole) == 0
    assert difference({"examples": 5, "mistakes": 0}, {"examples": 9, "mistakes": 0}) == 0


def test_a_dev_set_that_is_not_the_runs_is_refused(run, data, tmp_path):
    path = data / "ids-sst-dev.csv"
    sound = path.read_text()
    for changed, message in ((sound.replace("sst-3", "sst-9"), "sst-3"), (sound.replace("\t2\n", "\t1\n"), "label 2")):
        path.write_text(changed)
        with pytest.raises(InputError, match=message):
            mistakes.main([str(run), "--data", str(data), "--out", str(tmp_path / "out")])
    path.write_text(sound.replace("sst-3", "sst-2"))
    with pytest.raises(InputError, match="the same id"):
        mistakes.main([str(run), "--data", str(data), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_done_or_kept_no_answers_is_refused(data, tmp_path):
    begun = write_run(tmp_path / "begun", [step(1)], summed_up=False)
    done = write_run(tmp_path / "done", [step(1)])
    for run, message in ((begun, "expected one that is done"), (done, "no dev answers of sst are kept")):
        with pytest.raises(InputError, match=message):
            mistakes.main([str(run), "--data", str(data), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("arguments", [[], ["RUN"], ["RUN", "--pages"]])
def test_a_command_line_without_what_it_reads_is_refused(arguments, tmp_path):
    with pytest.raises(InputError, match="expected"):
        mistakes.main([*arguments, "--out", str(tmp_path)])


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_the_committed_pages_have_the_figures_of_the_committed_results(task):
    results = json.loads((PAGES / "results.json").read_text())
    assert (PAGES / f"{task}.md").read_text() == page_of(task, results)


def test_every_figure_of_the_section_on_mistakes_is_in_one_of_the_pages():
    text = (PAGES.parents[1] / "papers.md").read_text()
    section = text.split("## Their mistakes")[1].split("\n## ")[0]
    told = 0
    for part in section.split("\n- **"):
        name = {"STS**": "sts", "SST**": "sst"}.get(part.split()[0], "paraphrase")
        figures, known = re.findall(r"\d+\.\d+%", part), (PAGES / f"{name}.md").read_text()
        assert [figure for figure in figures if f" {figure}" not in known] == []
        told += len(figures)
    assert told > 10
    results = json.loads((PAGES / "results.json").read_text())["tasks"]
    assert f"{results['sts']['too_high']} of {results['sts']['mistakes']} answers" in section
    kinds = {(kind["group"], kind["name"]): kind for kind in results["paraphrase"]["kinds"]}
    best = kinds["opposites", "best against worst itself"]
    assert (best["examples"], best["mistakes"]) == (5, 0)
    assert kinds["opposites", "the same, a paraphrase"]["examples"] == 34
