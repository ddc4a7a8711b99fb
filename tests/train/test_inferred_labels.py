"""What a training set's labels are: kind, classes in their order, or a range."""

from collections import Counter
from dataclasses import replace

import pytest

from concord.bert.errors import InputError
from concord.train.data.labels import describe_labels, infer_labels, label_number, label_value
from concord.train.settings.definitions import TableSpec

SPEC = TableSpec(name="own", train="t.csv", named_by="tasks.toml: task own")


def infer(*cells, declared=(), **said):
    found = Counter(label_value(cell) for cell in cells)
    labels = infer_labels(found, declared, replace(SPEC, **said), "t.csv: label")
    return labels.kind, labels.names if labels.names else (labels.low, labels.high)


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["shipping", "billing", "account"], "classification", ("account", "billing", "shipping")),
        (["b ", " a"], "binary", ("a", "b")),
        ([True, False], "binary", ("False", "True")),
        (["true", "false"], "binary", ("false", "true")),
        ([5, 1, 3, 2, 4], "classification", ("1", "2", "3", "4", "5")),
        (["1", "-1", "0"], "classification", ("-1", "0", "1")),
        (["10", "9"], "binary", ("9", "10")),
        (["1.0", "0.0", "1"], "binary", ("0", "1")),
        (["007", "7"], "binary", ("007", "7")),
        (["AB12", "12E45", "-1e999"], "classification", ("-1e999", "12E45", "AB12")),
        (list(range(50)), "classification", tuple(map(str, range(50)))),
        (["1", "2", "other"], "classification", ("1", "2", "other")),
    ],
)
def test_texts_booleans_and_few_whole_numbers_are_classes_in_sorted_order(cells, kind, names):
    assert infer(*cells) == (kind, names)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        (["1.5", "4", "2"], 1.5, 4.0),
        (list(range(51)), 0.0, 50.0),
        ([1e-3, -2.5], -2.5, 1e-3),
        (["1e3", ".5"], 0.5, 1e3),
    ],
)
def test_other_numbers_are_scores_from_the_least_to_the_greatest(cells, low, high):
    assert infer(*cells) == ("regression", (low, high))


def test_keys_change_what_is_inferred():
    assert infer(1, 2, 3, kind="regression") == ("regression", (1.0, 3.0))
    assert infer(1, 2, 3, kind="regression", low=0.0, high=5.0) == ("regression", (0.0, 5.0))
    assert infer("a", "b", kind="classification") == ("classification", ("a", "b"))
    assert infer("a", "b", labels=("b", "a", "c")) == ("classification", ("b", "a", "c"))
    assert infer("1.5", "2", kind="classification") == ("classification", ("1.5", "2"))
    assert infer("yes", "no", declared=("yes", "no")) == ("binary", ("yes", "no"))
    assert infer("1.5", "n/a", kind="regression", low=0.0)[1] == (0.0, 1.5)


@pytest.mark.parametrize(
    ("cells", "said", "message"),
    [
        (["a", "a"], {}, r"1 different labels \(a\), expected two or more; labels = \[\.\.\.\] in a tasks.toml names"),
        (
            ["a", "b", "c"],
            {"kind": "binary"},
            r"3 different labels \(a, b, c\), expected two; labels = \[\.\.\.\] in a tasks.toml names",
        ),
        (["1.5", "n/a"], {}, r'such as 1\.5 and texts such as .n/a., expected one of them; kind = "regression" or'),
        (["a", "b"], {"kind": "regression"}, "no label is a number, expected numbers for kind regression"),
        (["1.5", "1.5"], {}, "labels from 1.5 to 1.5, expected a range; keys low and high say"),
    ],
)
def test_labels_that_are_neither_are_refused_with_the_key_that_helps(cells, said, message):
    with pytest.raises(InputError, match=f"^t.csv: label: .*{message}"):
        infer(*cells, **said)


def test_a_dev_label_is_a_class_of_the_training_set_and_a_dev_score_any_number():
    assert label_number(" b", "binary", ("a", "b"), "label", 0, 1) == 1.0
    with pytest.raises(ValueError, match=r"label is 'c', which the training set has not, expected one of a, b"):
        label_number("c", "binary", ("a", "b"), "label", 0, 1)
    assert label_number("7", "regression", (), "score", float("-inf"), float("inf")) == 7.0
    for cell, said in (
        ("7", "is 7, expected a number from 0 to 5"),
        ("x", "is 'x', expected a number"),
        ("", "is empty"),
        ("12E45", r"is '12E45', expected a number within 1e\+18 of 0"),
    ):
        with pytest.raises(ValueError, match=said):
            label_number(cell, "regression", (), "score", 0, 5)
    for cell in (None, float("nan"), " "):
        assert label_value(cell) is None
    for cell in (float("inf"), 10**30, [1], {"a": 1}):
        with pytest.raises((ValueError, OverflowError)):
            label_value(cell)


@pytest.mark.parametrize("names", [("-1", "+1"), ("-1.0", "1.00"), (" -1", "1")])
@pytest.mark.parametrize("cells", [("+1", "-1"), ("1.0", "-1.0"), (1, -1), (1.0, -1.0), ("1e0", " -1 ")])
def test_names_of_classes_are_spelled_as_one_likes_whatever_spelling_the_cells_have(names, cells):
    assert infer("+1", "-1", labels=names) == ("binary", names)
    assert [label_number(cell, "binary", names, "label", 0, 1) for cell in cells] == [1.0, 0.0]
    with pytest.raises(ValueError, match=r"label is '\+2', which the training set has not"):
        label_number("+2", "binary", names, "label", 0, 1)


def test_names_that_a_data_set_declares_are_matched_alike_and_kept():
    assert infer("0.5", "7", declared=("0.5", "7.0", "1e30", "")) == ("classification", ("0.5", "7.0", "1e30", ""))


def test_a_wrong_label_among_thousands_is_told_the_first_few_and_the_nearest_one():
    names = tuple(f"class {number}" for number in range(3000))
    told = (
        "label is 'clas 2718', which the training set has not, expected one of class 0, class 1, class 2 and 2997 more"
    )
    with pytest.raises(ValueError, match=f"^{told}; did you mean 'class 2718'\\?$"):
        label_number("clas 2718", "classification", names, "label", 0, 2999)
    with pytest.raises(ValueError, match=f"^{told}$"):
        label_number("clas 2718", "classification", names, "label", 0, 2999, suggest=False)


def test_half_of_a_surrogate_pair_is_no_label():
    with pytest.raises(ValueError, match="label has half of a surrogate pair, expected whole characters"):
        label_number("y\ud800", "binary", ("a", "b"), "label", 0, 1)


def test_the_banner_counts_the_labels_of_the_training_set():
    assert describe_labels("binary", ("a", "b"), [0.0, 1.0, 1.0], 0, 1) == "binary, 2 labels: a 1, b 2"
    many = tuple(f"{'long ' * 20}{number}" for number in range(1000))
    assert len(describe_labels("classification", many, [0.0], 0, 999)) < 600
    assert describe_labels("regression", (), [1.0], 1, 5) == "regression from 1 to 5"
