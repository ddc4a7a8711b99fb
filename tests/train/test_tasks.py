"""The built-in tasks, and those that a tasks.toml adds."""

import json
import os
import re

import pytest

from concord.bert.errors import InputError
from concord.train.data.tasks import BUILT_IN_TASKS, Task, read_tasks, select_tasks, write_tasks

STARS = """
[stars]
kind = "regression"
low = 1
high = 10
stem = "films"
text_columns = ["review"]
label_column = "stars"
prediction_column = "Predicted_Stars"
"""
ENTAILMENT = """
[entailment]
kind = "classification"
classes = 3
stem = "nli"
text_columns = ["premise", "hypothesis"]
label_column = "relation"
prediction_column = "Predicted_Relation"
"""


def define(directory, text):
    (directory / "tasks.toml").write_text(text, encoding="utf-8")
    return directory


def test_the_courses_tasks_are_built_in():
    sst, paraphrase, sts, cfimdb = select_tasks(["sst", "paraphrase", "sts", "cfimdb"], None)
    assert (sst.kind, sst.classes, sst.pair, sst.stem, sst.high) == ("classification", 5, False, "ids-sst", 4)
    assert (paraphrase.kind, paraphrase.classes, paraphrase.pair) == ("binary", 1, True)
    assert (sts.kind, sts.classes, sts.low, sts.high) == ("regression", 1, 0, 5)
    assert (cfimdb.classes, cfimdb.high, cfimdb.stem) == (2, 1, "ids-cfimdb")
    assert [task.prediction_column for task in (sst, paraphrase, sts, cfimdb)] == [
        "Predicted_Sentiment",
        "Predicted_Is_Duplicate",
        "Predicted_Similiary",
        "Predicted_Sentiment",
    ]


def test_tasks_come_in_the_order_asked_for():
    assert [task.name for task in select_tasks(["sts", "sst"], None)] == ["sts", "sst"]


def test_an_unknown_task_gets_a_suggestion():
    with pytest.raises(InputError, match=r"unknown task 'paraphrases'.*did you mean 'paraphrase'"):
        select_tasks(["paraphrases"], None)


def test_a_task_given_twice_is_refused():
    with pytest.raises(InputError, match="'sst' is given twice"):
        select_tasks(["sst", "sts", "sst"], None)


def test_no_task_at_all_is_refused():
    with pytest.raises(InputError, match="no task"):
        select_tasks([], None)


def test_a_directory_without_definitions_has_the_built_in_tasks(tmp_path):
    assert select_tasks(["sst"], tmp_path) == [BUILT_IN_TASKS[0]]


def test_a_data_directory_can_define_further_tasks(tmp_path):
    stars, entailment, sst = select_tasks(["stars", "entailment", "sst"], define(tmp_path, STARS + ENTAILMENT))
    assert stars == Task(
        name="stars",
        kind="regression",
        pair=False,
        classes=1,
        low=1.0,
        high=10.0,
        stem="films",
        text_columns=("review",),
        label_column="stars",
        prediction_column="Predicted_Stars",
    )
    assert (entailment.pair, entailment.classes, entailment.low, entailment.high) == (True, 3, 0, 2)
    assert sst.name == "sst"


def test_a_binary_task_needs_neither_classes_nor_a_range(tmp_path):
    text = ENTAILMENT.replace('"classification"', '"binary"').replace("classes = 3\n", "")
    (task,) = select_tasks(["entailment"], define(tmp_path, text))
    assert (task.classes, task.low, task.high) == (1, 0, 1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("stem =", "stemm ="), r"task stars: unknown key 'stemm'.*did you mean 'stem'"),
        (('stem = "films"\n', ""), "task stars: stem is missing"),
        (("low = 1\n", ""), "task stars: low is missing"),
        (('kind = "regression"\n', ""), "task stars: kind is missing"),
        (('"regression"', '"ranking"'), "kind is 'ranking', expected one of classification, binary, regression"),
        (("high = 10", "high = 1"), "low 1.0 and high 1.0 span no range"),
        (("high = 10", "high = inf"), "span no range"),
        (("high = 10", 'high = "ten"'), "high is 'ten', expected a number"),
        (("high = 10", "classes = true\nhigh = 10"), "classes is True, expected a whole number"),
        (("high = 10", "classes = 2\nhigh = 10"), "classes is 2, expected 1 for kind regression"),
        (("high = 10", "pair = true\nhigh = 10"), "text_columns has 1 names, expected 2"),
        (('["review"]', '["a", "b", "c"]'), "text_columns has 3 names, expected 2 where pair is True"),
        (('["review"]', '["stars"]'), "repeat a name"),
        (('["review"]', '"review"'), "text_columns is 'review', expected a list of column names"),
        (('stem = "films"', 'stem = ""'), "stem is '', expected a text"),
        (("[stars]", '["two words"]'), "name is 'two words'"),
        (("[stars]", "[type]"), "name is 'type', which torch's modules use themselves, expected another"),
        (("[stars]", "[items]"), "name is 'items', which"),
        (("[stars]", "[training]"), "name is 'training', which"),
        (("[stars]", "[forward_first_tokens]"), "name is 'forward_first_tokens', which"),
        (("[stars]", "[sst]"), "task sst is built in"),
        (("[stars]", "stars = 3\n[more]"), "stars is 3, expected a table"),
        (("[stars]", "[stars"), "not TOML"),
    ],
)
def test_a_wrong_definition_is_named_with_its_file(tmp_path, change, complaint):
    assert change[0] in STARS
    define(tmp_path, STARS.replace(*change))
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "tasks.toml")) + ".*" + complaint) as caught:
        select_tasks(["stars"], tmp_path)
    assert "\n" not in str(caught.value)


def test_classification_labels_span_the_classes(tmp_path):
    define(tmp_path, ENTAILMENT.replace("classes = 3", "classes = 3\nhigh = 5"))
    with pytest.raises(InputError, match="expected 0 and 2"):
        select_tasks(["entailment"], tmp_path)


def test_a_definition_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "tasks.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"tasks\.toml"):
        select_tasks(["sst"], tmp_path)


def test_a_runs_tasks_are_read_as_they_were_written(tmp_path):
    tasks = [*BUILT_IN_TASKS, *select_tasks(["stars", "entailment"], define(tmp_path, STARS + ENTAILMENT))]
    write_tasks(tmp_path / "tasks.json", tasks)
    assert read_tasks(tmp_path / "tasks.json") == tasks


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda table: "{", "Expecting"),
        (lambda table: "[" * 100_000, "recursion"),
        (lambda table: "[]", "expected a list"),
        (lambda table: "null", "expected a list"),
        (lambda table: '["sst"]', "expected a list"),
        (lambda table: json.dumps([table | {"classes": 5.0}]), "task sst: classes is 5.0, expected a whole number"),
        (lambda table: json.dumps([table | {"kind": "bogus"}]), "task sst: kind is 'bogus', expected one of"),
        (lambda table: json.dumps([table | {"text_columns": 3}]), "task sst: text_columns is 3, expected a list"),
        (lambda table: json.dumps([table | {"delimiter": "\n"}]), r"delimiter is '.n', expected one character"),
        (lambda table: json.dumps([table | {"quoting": "some"}]), "quoting is 'some', expected one of standard, none"),
        (lambda table: json.dumps([table | {"header": 1}]), "task sst: header is 1, expected true or false"),
        (lambda table: json.dumps([table | {"more": 3}]), "task sst: unknown key 'more'"),
        (lambda table: json.dumps([{k: v for k, v in table.items() if k != "stem"}]), "task sst: stem is missing"),
        (lambda table: json.dumps([{k: v for k, v in table.items() if k != "name"}]), "name is '', expected a letter"),
    ],
)
def test_damaged_tasks_of_a_run_are_refused_by_what_is_wrong(tmp_path, damage, expected):
    path = tmp_path / "tasks.json"
    write_tasks(path, BUILT_IN_TASKS[:1])
    path.write_text(damage(json.loads(path.read_text())[0]))
    either = rf"not the tasks of a run.*{expected}|not JSON \(.*{expected}.*\), expected the tasks of a run"
    with pytest.raises(InputError, match=rf"tasks\.json: ({either})"):
        read_tasks(path)


def test_a_byte_order_mark_before_the_definitions_is_passed_over(tmp_path):
    assert select_tasks(["stars"], define(tmp_path, "\ufeff" + STARS))[0].stem == "films"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("low = 1", f"low = {'9' * 400}", "low is 9+ .*expected a number within 1e\\+18 of 0"),
        ("low = 1", f"low = {'9' * 5000}", "not TOML"),
        ("low = 1", f"low = 0x{'f' * 5000}", "low is a int too long to be shown"),
        ("low = 1", "low = -1e300", "span no range of fp32"),
        ("low = 1", "low = nan", "span no range of fp32"),
        ("low = 1", "low = 9.999999999", "span no range of fp32"),
        ("low = 1", "classes = 1e400", "classes is inf"),
        ("low = 1", f"low = 1\nclasses = {10**12}", "classes is 1000000000000, expected 1 for kind regression"),
        ("low = 1", "low = 1\nkind = ['a']", "not TOML"),
        ("low = 1", f"low = {'[' * 2000}", "not TOML"),
        ('kind = "regression"', 'kind = ["regression"]', "kind is .'regression'., expected one of"),
        ('stem = "films"', 'stem = "../films"', "stem is '../films', expected the beginning of a file's name in the"),
        ('stem = "films"', 'stem = "/etc/films"', "stem is '/etc/films'"),
        ('stem = "films"', 'stem = "a/../../films"', "stem is 'a/../../films'"),
        ('stem = "films"', r'stem = "..\\films"', "stem is "),
        ('stem = "films"', 'stem = "C:films"', "stem is 'C:films'"),
        ('stem = "films"', r'stem = "films\u0000"', r"'films\\x00' has control characters"),
        ('prediction_column = "Predicted_Stars"', r'prediction_column = "x\n1, 9"', "has control characters"),
        ("[stars]", f"[{'stars' * 20}]", "64 characters at most"),
    ],
)
def test_a_definition_beyond_all_measure_is_one_bounded_line(tmp_path, old, new, expected):
    name = new.strip("[]") if old == "[stars]" else "stars"
    define(tmp_path, STARS.replace(old, new))
    with pytest.raises(InputError, match=expected) as raised:
        select_tasks([name], tmp_path)
    assert len(str(raised.value)) <= 500
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ['[{"name": "x", "stem": "\\ud800"}]', '[{"low": 1e999}]', "[[1]]", "9" * 5000])
def test_tasks_of_a_run_that_were_tampered_with_are_refused(tmp_path, content):
    (tmp_path / "tasks.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tasks\.json"):
        read_tasks(tmp_path / "tasks.json")


def test_a_pipe_in_place_of_the_definitions_is_refused(tmp_path):
    os.mkfifo(tmp_path / "tasks.toml")
    with pytest.raises(InputError, match="a pipe or a device, expected task definitions in a plain file"):
        select_tasks(["stars"], tmp_path)
