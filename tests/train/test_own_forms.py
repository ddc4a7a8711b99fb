"""Tables as they are read: columns found by name, delimiters and quotes guessed, encodings, forms, and bad rows."""

import sys
from dataclasses import replace

import datasets
import pytest
from torch import nn

from concord.bert.errors import InputError
from concord.bert.pals import ProjectedAttention
from concord.train.data import arrow
from concord.train.data.datasets import with_data
from concord.train.data.sources import open_source
from concord.train.data.tables import TableTask, read_plain_table
from concord.train.data.tasks import read_tasks, write_tasks
from concord.train.settings.definitions import TableSpec, task_name
from concord.train.settings.module_names import MODULE_NAMES
from tests.settings import fine_tuning
from tests.train.own_data import lines, pairs, stars

SPEC = TableSpec(name="own", train="", named_by="tasks.toml: task own")


def rows_of(path, *, skip_bad_rows=False, **said):
    """The training rows of a file, all of them: (id, texts, label's name or number), and what is said."""
    table = TableTask(replace(SPEC, train=str(path), validation=str(path), **said))
    task = table.task()
    split = table.read(task, "train", skip_bad_rows=skip_bad_rows)
    found = []
    for one in split.examples:
        label = task.labels[int(one.label)] if task.labels else one.label
        found.append((one.id, one.first, one.second, label))
    return found, split


def texts_of(path, **said):
    return [row[1] for row in rows_of(path, **said)[0]]


@pytest.mark.parametrize(
    "header", ["label,text", "created,Text ,LABEL", " TEXT,x,y,La bel", "text\u200b,label", '"Text","label"']
)
def test_columns_come_in_any_order_and_are_found_without_regard_to_case_and_white_space(tmp_path, header):
    names = [name.strip('" \u200b').lower().replace(" ", "") for name in header.split(",")]
    rows = [",".join({"text": text, "label": label}.get(name, "7") for name in names) for text, label in ("ax", "by")]
    path = lines(tmp_path / "t.csv", header, *rows)
    found, _ = rows_of(path, text_columns=("text",), label_column="label")
    assert [row[1:] for row in found] == [("a", None, "x"), ("b", None, "y")]


def test_a_column_that_is_spelled_as_asked_comes_before_one_that_is_alike(tmp_path):
    path = lines(tmp_path / "t.csv", "Text,text,label", "no,a,x", "no,b,y")
    assert texts_of(path, text_columns=("text",), label_column="label") == ["a", "b"]
    with pytest.raises(InputError, match=r"t\.csv: text column 'TEXT' is 2 columns, expected some of \[Text, text"):
        rows_of(path, text_columns=("TEXT",), label_column="label")


def test_all_columns_that_are_missing_are_named_at_once_with_what_may_be_meant(tmp_path):
    path = lines(tmp_path / "t.csv", "created,label,text", "1,x,a", "2,y,b")
    with pytest.raises(InputError) as raised:
        rows_of(path, text_columns=("txt",), label_column="lable")
    assert str(raised.value) == (
        f"{path}: text column 'txt' is no column, label column 'lable' is no column, expected some of "
        "[created, label, text]; did you mean 'text'? (tasks.toml: task own)"
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_line_ends_and_encodings(tmp_path, end, encoding, name):
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    rows = [mark + "text,label", '"caf\xe9, of', 'two ""lines"""' + ",x", "", "b\u2028c,y"]
    path = lines(tmp_path / name, *rows, end=end, encoding=encoding)
    found, split = rows_of(path)
    assert [row[1:] for row in found] == [('caf\xe9, of\ntwo "lines"', None, "x"), ("b\u2028c", None, "y")]
    assert [one.source for one in split.examples] == [f"{path}:2", f"{path}:5"]


@pytest.mark.parametrize(("name", "sign"), [("t.csv", ";"), ("t.csv", "\t"), ("t.csv", "|"), ("t.tsv", ",")])
def test_another_delimiter_is_guessed_and_said_or_given(tmp_path, name, sign):
    path = lines(tmp_path / name, f"text{sign}label", f"a, b{sign}x" if sign != "," else "a,x", f"b{sign}y")
    found, split = rows_of(path, text_columns=("text",), label_column="label")
    assert [row[3] for row in found] == ["x", "y"]
    assert f"train: delimiter {sign!r} (guessed; key delimiter)" in split.notes
    assert not any("delimiter" in note for note in rows_of(path, delimiter=sign)[1].notes)


def test_texts_that_begin_with_a_quote_are_read_as_they_are_and_it_is_said(tmp_path):
    path = lines(tmp_path / "t.tsv", "text\tlabel", '"Yes, he said.\tx', "plain\ty", 'She: "no".\tx', 'end"\ty')
    found, split = rows_of(path)
    assert [row[1] for row in found] == ['"Yes, he said.', "plain", 'She: "no".', 'end"']
    assert any(note.startswith("train: quotes are characters as others") for note in split.notes)
    with pytest.raises(InputError, match=r"t\.tsv:2: a stray quote"):
        rows_of(path, quoting="standard")


def test_quotes_that_open_in_one_line_and_close_in_another_by_chance_are_plain_in_tab_delimited_text(tmp_path):
    path = lines(tmp_path / "t.tsv", "text\tlabel", '"one\tx', 'two"\ty', "three\tx")
    assert texts_of(path) == ['"one', 'two"', "three"]
    assert texts_of(path, quoting="standard") == ["one\tx\ntwo", "three"]


def test_quotes_around_cells_of_several_lines_are_quotes(tmp_path):
    path = lines(tmp_path / "t.csv", "text,label", '"a, ""b"", too', 'c",x', "d,y")
    assert texts_of(path) == ['a, "b", too\nc', "d"]
    with pytest.raises(InputError, match=r"t\.csv:2: 3 columns, expected 2"):
        rows_of(path, quoting="none")


def test_a_bad_row_is_lost_alone_and_named_by_its_line(tmp_path):
    rows = ["text,label", "a,x", '"open,y', "b,y", "c", "d,x,more", " ,x", "e,", f"{'x' * (1 << 20)}z,x", '"f', 'g",y']
    path = lines(tmp_path / "t.csv", *rows)
    found, split = rows_of(path, skip_bad_rows=True)
    assert [row[:2] for row in found] == [("1", "a"), ("3", "b"), ("9", "f\ng")]
    told = [problem.removeprefix(f"{path}:") for problem in split.bad_rows]
    assert told == [
        "3: a stray quote, expected quotes in pairs around a column",
        "5: 1 columns, expected 2",
        "6: 3 columns, expected 2",
        "7: text is empty, expected a sentence",
        "8: label is empty, expected a label",
        "9: 1048577 characters, expected 1048576 at most",
    ]
    with pytest.raises(InputError, match=r"^6 bad rows: .*; and 1 more \(--skip-bad-rows leaves such rows out\)$"):
        rows_of(path)


def test_what_label_may_be_meant_is_looked_for_only_where_the_row_is_shown(tmp_path, monkeypatch):
    path = lines(tmp_path / "t.csv", "text,label", "a,x", "b,y", *["c,xx"] * 30)
    asked = []
    monkeypatch.setattr("concord.train.data.labels.suggestion", lambda *given: asked.append(given) or "; or 'x'?")
    found, split = rows_of(path, labels=("x", "y"), skip_bad_rows=True)
    assert (len(found), len(split.bad_rows), len(asked)) == (2, 30, 20)
    assert [problem.endswith("; or 'x'?") for problem in split.bad_rows] == [True] * 20 + [False] * 10
    asked.clear()
    with pytest.raises(InputError, match=r"30 bad rows: .*; or 'x'"):
        rows_of(path, labels=("x", "y"))
    assert len(asked) == 5


def test_keys_without_effect_are_told(tmp_path):
    path = lines(tmp_path / "t.jsonl", '{"text": "a", "label": "x"}', '{"text": "b", "label": "y"}')
    notes = rows_of(path, low=0.0, high=5.0, delimiter=";", quoting="none", header=False)[1].notes
    assert "without effect: low, high, since the labels are of kind binary" in notes
    assert "without effect: delimiter, quoting, header, since no file is .csv or .tsv" in notes
    table = lines(tmp_path / "t.CSV.gz", "text;score", "a;1.5", "b;2")
    assert not [note for note in rows_of(table, low=0.0, delimiter=";")[1].notes if "without effect" in note]
    own = TableTask(replace(SPEC, train=str(path), validation=str(table), delimiter=";"))
    assert not [note for note in own.read(own.task(), "train", skip_bad_rows=False).notes if "effect" in note]


def test_the_labels_of_the_rows_that_a_limit_leaves_are_counted_and_those_without_any_are_told(tmp_path):
    path = lines(tmp_path / "t.csv", "text,label", *(f"text {number},{'xyz'[number % 3]}" for number in range(30)))
    notes = rows_of(path, limit=10)[1].notes
    assert notes[0].startswith("classification, 3 labels: x 10, y 0, z 0; texts text")
    assert "10 of 30 training rows, evenly spaced (key limit); none is left of y, z" in notes
    notes = rows_of(path, limit=29)[1].notes
    assert "29 of 30 training rows, evenly spaced (key limit)" in notes


def test_json_lines_of_any_order_and_what_is_wrong_with_one(tmp_path):
    good = ['{"label": true, "text": "a", "more": {}}', "", '{"Text": "b", "label": false}']
    bad = ['{"text": 5, "label": true}', "[1]", "{", '{"label": true}', '{"text": "c", "label": [1]}']
    path = lines(tmp_path / "t.jsonl", *good, *bad, r'{"text": "\ud800", "label": true}')
    found, split = rows_of(path, skip_bad_rows=True)
    assert [row[1:] for row in found] == [("a", None, "True"), ("b", None, "False")]
    assert [problem.removeprefix(f"{path}:")[:30] for problem in split.bad_rows] == [
        "4: text is 5, a int, expected ",
        "5: a JSON list, expected an ob",
        "6: not JSON (Expecting propert",
        "7: text is empty, expected a s",
        "8: label is [1], expected a te",
        "9: text has half of a surrogat",
    ]


def test_columns_by_number_are_of_a_file_without_a_header(tmp_path):
    path = lines(tmp_path / "t.tsv", "a\t0\tone", "b\t1\ttwo")
    assert texts_of(path, text_columns=("3",), label_column="2") == ["one", "two"]
    headed = lines(tmp_path / "u.tsv", "1\t2\t3", "b\t1\ttwo", "c\t0\tone")
    assert texts_of(headed, text_columns=("3",), label_column="2") == ["two", "one"]
    with pytest.raises(InputError, match=r"text column '9' is no column, expected some of \[1, 2, 3\]"):
        rows_of(path, text_columns=("9",), label_column="2")


@pytest.mark.parametrize("first", ["3,a title,2", "2,1,of 2 & 3", '1,"3 or","2; 3; 4; and 5"', "2,3,a b"])
def test_a_label_that_is_a_columns_number_makes_no_header(tmp_path, first):
    rows = ["1,w x,a text", "2,y z,another; text"]
    path = lines(tmp_path / "t.csv", first, *rows)
    found, split = rows_of(path, text_columns=("2", "3"), label_column="1")
    assert len(found) == 3
    assert found[0][3] == first[0]
    assert "train: no header, columns are numbers (guessed; key header)" in split.notes
    found, _ = rows_of(path, text_columns=("3",), label_column="1")
    assert len(found) == 3
    found, _ = rows_of(lines(tmp_path / "u.csv", "1,a title", "2,a text", "1,b c"), label_column="1")
    assert [row[1:] for row in found] == [("a title", None, "1"), ("a text", None, "2"), ("b c", None, "1")]


def test_names_that_are_numbers_are_a_header_where_all_stand_in_it(tmp_path):
    path = lines(tmp_path / "t.csv", ",0,1", "0,a b,x", "1,c d,y")
    found, split = rows_of(path, text_columns=("0",), label_column="1")
    assert [row[1:] for row in found] == [("a b", None, "x"), ("c d", None, "y")]
    assert "train: the first row has the columns' names (guessed; key header)" in split.notes
    assert texts_of(path, label_column="1") == ["a b", "c d"]


def test_whether_there_is_a_header_may_be_said(tmp_path):
    path = lines(tmp_path / "t.csv", "1,2", "2,a", "1,b")
    said = {"text_columns": ("2",), "label_column": "1"}
    assert texts_of(path, **said) == ["a", "b"]
    found, split = rows_of(path, header=False, **said)
    assert [row[1] for row in found] == ["2", "a", "b"]
    assert not any("guessed" in note for note in split.notes)
    with pytest.raises(InputError, match=r"text column 'text' is no column, expected some of \[1, 2\]"):
        rows_of(path, header=False, text_columns=("text",), label_column="1")


def test_other_files_of_a_task_have_a_header_where_its_training_set_has_one(tmp_path):
    rows = [f"{number % 3 + 1},text {number}" for number in range(6)]
    train, dev = lines(tmp_path / "t.csv", *rows), lines(tmp_path / "d.csv", "2,2", "1,b", "2,1")
    spec = replace(SPEC, train=str(train), validation=str(dev), test=str(dev), text_columns=("2",), label_column="1")
    table = TableTask(spec)
    task = table.task()
    assert task.header is False
    for split in ("dev", "test"):
        assert [one.first for one in table.read(task, split, skip_bad_rows=False).examples] == ["2", "b", "1"]
    again = TableTask(replace(spec, train=""))  # as where other data are evaluated, with the task of the run's folder
    assert len(again.read(task, "dev", skip_bad_rows=False).examples) == 3
    assert [one.first for one in read_plain_table(task, dev)] == ["2", "b", "1"]
    named = replace(task, text_columns=("body",), header=None)
    assert [one.first for one in read_plain_table(named, lines(tmp_path / "p.csv", "x,body", "1,2"))] == ["2"]
    (one,) = read_plain_table(task, lines(tmp_path / "p.jsonl", '{"1": "x", "2": "y"}'))
    assert one.first == "y"


@pytest.mark.parametrize(
    ("said", "rows", "text"),
    [
        ({"delimiter": "~"}, ("text~label", "a, b; c~x", "d|e~y"), "a, b; c"),
        ({"delimiter": ";", "quoting": "none"}, ("label;text", 'x;"a', 'y;b"'), '"a'),
        ({"quoting": "none"}, ("text,label", '"a",x', '"b",y'), '"a"'),
        ({"quoting": "standard"}, ("text,label", '"a",x', '"b",y'), "a"),
        ({"delimiter": "~", "text_columns": ("1",), "label_column": "2"}, ("a, b, c~x", "d~y"), "a, b, c"),
    ],
)
def test_other_files_are_read_as_the_training_set_was(tmp_path, said, rows, text):
    path = lines(tmp_path / "t.csv", *rows)
    task = TableTask(replace(SPEC, train=str(path), **said)).task()
    assert read_plain_table(task, path)[0].first == text
    write_tasks(tmp_path / "tasks.json", [task])
    assert read_tasks(tmp_path / "tasks.json") == [task]
    config = with_data(fine_tuning().data, str(path), [task])
    found = open_source(config.source, config.table).read(task, "dev", skip_bad_rows=False)
    assert found.examples[0].first == text
    assert len(found.examples) == 2


def test_a_file_in_another_form_than_the_training_set_is_read_as_what_it_is(tmp_path):
    path = lines(tmp_path / "t.csv", "text~label", '"a"~x', "b~y")
    task = TableTask(replace(SPEC, train=str(path), delimiter="~", quoting="none")).task()
    for other in (
        lines(tmp_path / "p.jsonl", '{"text": "a, b", "label": "x"}'),
        lines(tmp_path / "p.csv", "text,label", '"a, b",x'),
        lines(tmp_path / "p.tsv", "label\ttext", "x\ta, b"),
    ):
        assert [one.first for one in read_plain_table(task, other)] == ["a, b"]
        config = with_data(fine_tuning().data, str(other), [task])
        found = open_source(config.source, config.table).read(task, "dev", skip_bad_rows=False)
        assert [one.first for one in found.examples] == ["a, b"]


def test_ids_are_the_column_id_or_the_one_that_is_named_or_else_numbers(tmp_path):
    path = lines(tmp_path / "t.csv", "ID,key,text,label", "p,k,a,x", "q,l,b,y")
    assert [row[0] for row in rows_of(path)[0]] == ["p", "q"]
    assert [row[0] for row in rows_of(path, id_column="Key")[0]] == ["k", "l"]
    with pytest.raises(InputError, match="id column 'nokey' is no column"):
        rows_of(path, id_column="nokey")


def test_a_row_whose_id_nobody_asked_for_is_called_by_its_number_where_it_has_none(tmp_path):
    ids = ["null", '" "', "[1]", "7", "1.5", "NaN", '"k"', "true"]
    rows = [f'{{"id": {one}, "text": "a", "label": "{one in ids[:4]}"}}' for one in ids]
    path = lines(tmp_path / "t.jsonl", *rows, '{"text": "b", "label": "True"}')
    expected = ["1", "2", "3", "7", "1.5", "6", "k", "True", "9"]
    assert [row[0] for row in rows_of(path)[0]] == expected
    task = TableTask(replace(SPEC, train=str(path))).task()
    assert [one.id for one in read_plain_table(task, path)] == expected
    found, split = rows_of(path, id_column="id", skip_bad_rows=True)
    assert [row[0] for row in found] == ["7", "1.5", "k", "True"]
    assert split.bad_rows[0] == f"{path}:1: id is None, expected a name of the row"


def test_half_of_a_surrogate_pair_is_bad_in_an_id_and_in_a_label_too(tmp_path):
    rows = ['{"id": "a", "text": "a", "label": "x"}', '{"id": "b", "text": "b", "label": "y"}']
    path = lines(tmp_path / "t.jsonl", *rows, rows[0].replace('"a",', r'"\ud800",', 1), rows[1].replace("y", r"\udfff"))
    found, split = rows_of(path, skip_bad_rows=True)
    assert [row[0] for row in found] == ["a", "b"]
    assert split.bad_rows == [
        f"{path}:3: id has half of a surrogate pair, expected whole characters",
        f"{path}:4: label has half of a surrogate pair, expected whole characters",
    ]
    task = TableTask(replace(SPEC, train=str(lines(tmp_path / "u.jsonl", *rows)))).task()
    with pytest.raises(InputError, match=r"t\.jsonl:3: id has half of a surrogate pair"):
        read_plain_table(task, path)


@pytest.mark.parametrize(
    ("cells", "labels", "expected"),
    [
        (["+1", "-1", "1"], (), ("-1", "+1")),
        (["2.0", "1.0", "2"], (), ("1.0", "2.0")),
        (["+1", "-1", "+1"], ("+1", "-1"), ("+1", "-1")),
        (["+1", "-1", "+1"], ("1", "-1.0"), ("1", "-1.0")),
    ],
)
def test_labels_are_spelled_as_the_user_or_the_first_row_does(tmp_path, cells, labels, expected):
    path = lines(tmp_path / "t.csv", "text,label", *(f"{number},{cell}" for number, cell in enumerate(cells)))
    assert TableTask(replace(SPEC, train=str(path), labels=labels)).task().labels == expected
    names = [row[3] for row in rows_of(path, labels=labels)[0]]
    assert names == [next(name for name in expected if float(name) == float(cell)) for cell in cells]


def test_two_labels_that_are_one_number_are_refused(tmp_path):
    path = lines(tmp_path / "t.csv", "text,label", "a,1", "b,2")
    with pytest.raises(InputError, match=r"^tasks\.toml: task own: labels has '1, \+1', which are one label"):
        TableTask(replace(SPEC, train=str(path), labels=("1", "+1", "2"), named_by="tasks.toml: task own")).task()


def test_parquet_saved_folders_and_classes_that_a_data_set_declares(tmp_path):
    found, split = rows_of(stars(tmp_path), text_columns=("body",), label_column="points")
    assert found[:2] == [("1", "film number 0 was fine", None, 1.0), ("2", "film number 1 was fine", None, 1.5)]
    assert split.examples[1].source.endswith("stars.parquet:2")
    found, _ = rows_of(pairs(tmp_path), text_columns=("left", "right"), label_column="same")
    assert found[0] == ("1", "left text 0", "right text 0", "True")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "as"])})
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    made.to_parquet(str(tmp_path / "c.parquet"))
    made.save_to_disk(str(tmp_path / "c"))
    for path in (tmp_path / "c.parquet", tmp_path / "c"):
        table = TableTask(replace(SPEC, train=str(path)))
        assert table.task().labels == ("no", "as")  # in the order in which they are declared
        found, split = rows_of(path, skip_bad_rows=True)
        assert [row[3] for row in found] == ["as", "no"]
        assert split.bad_rows[0].endswith(":3: label is empty, expected a label")


def test_the_splits_of_a_data_set_of_the_hub_or_a_saved_one(tmp_path, monkeypatch):
    def part(*rows):
        return datasets.Dataset.from_dict({"text": [row[0] for row in rows], "label": [row[1] for row in rows]})

    splits = datasets.DatasetDict(
        train=part(("a", "x"), ("b", "y")), validation=part(("c", "x")), test=part(("d", "unknown"))
    )
    splits.save_to_disk(str(tmp_path / "saved"))
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or splits)
    for name in (str(tmp_path / "saved"), "owner/films:small"):
        table = TableTask(replace(SPEC, train=name))
        task = table.task()
        read = {split: table.read(task, split, skip_bad_rows=False) for split in ("train", "dev", "test")}
        assert {split: [one.first for one in own.examples] for split, own in read.items()} == {
            "train": ["a", "b"],
            "dev": ["c"],
            "test": ["d"],
        }
        assert read["dev"].examples[0].source == f"{name} (validation):1"
        assert read["test"].examples[0].label is None
    assert asked == [("owner/films", "small")]
    # A share that is asked for is held out of the training set, whatever else there is.
    table = TableTask(replace(SPEC, train="owner/films", validation_split=0.5))
    with pytest.raises(InputError, match=r"^owner/films \(train\): label \(.* each of 2 labels has one text alone"):
        table.read(table.task(), "dev", skip_bad_rows=False)


def test_what_the_hub_or_the_library_says_is_one_line(tmp_path, monkeypatch):
    def fail(*names):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        InputError, match=r"^owner/films: cannot be read \(no network\); a file or a folder of that name"
    ):
        TableTask(replace(SPEC, train="owner/films")).task()
    lines(tmp_path / "t.parquet", "no Parquet")
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read \("):
        TableTask(replace(SPEC, train=str(tmp_path / "t.parquet"))).task()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"install the extra `data`: pip install 'concord-bert\[data\]'"):
        TableTask(replace(SPEC, train="owner/films")).task()


@pytest.mark.parametrize("name", ["../elsewhere.arrow", "/etc/passwd", "a\\b.arrow", ""])
def test_a_saved_folder_that_names_files_elsewhere_is_refused(tmp_path, name):
    folder = pairs(tmp_path)
    state = folder / "state.json"
    state.write_text(state.read_text().replace("data-00000-of-00001.arrow", name.replace("\\", "\\\\")))
    with pytest.raises(InputError, match="expected plain names of files in it"):
        arrow.open_saved(folder)


def test_a_link_in_a_saved_folder_that_leads_out_of_it_is_refused(tmp_path):
    folder, other = pairs(tmp_path), pairs(tmp_path, "other")
    file = folder / "data-00000-of-00001.arrow"
    file.unlink()
    file.symlink_to(other / file.name)
    with pytest.raises(InputError, match="expected a file within"):
        arrow.open_saved(folder)


def test_a_packed_file_that_is_damaged_or_grows_beyond_reason_is_refused(tmp_path, monkeypatch):
    path = lines(tmp_path / "t.csv.gz", "text,label", "a,x", "b,y")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(InputError, match=r"t\.csv\.gz: not a whole gzip file"):
        rows_of(path)
    monkeypatch.setattr("concord.train.data.decoded._SMALL", 1)
    lines(path, "text,label", "a" * 100_000 + ",x", "b,y")
    with pytest.raises(InputError, match="more than 200 times its size once unpacked"):
        rows_of(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "starts with no header"),
        ("t.csv", b"text,label\n\xff,x\n", r"t\.csv:2: not UTF-8 \(byte 0xff\), expected UTF-8; save the file in it"),
        *(
            (
                name,
                text.encode(encoding),
                rf"{name}:1: NUL bytes, as in UTF-16 without a byte order mark, expected UTF-8; save the file in it$",
            )
            for name, text in (("t.csv", "text,label\na,x\n"), ("t.jsonl", '{"text": "\xe4", "label": "x"}'))
            for encoding in ("utf-16-le", "utf-16-be")
        ),
        ("t.csv", b"\xff\xfea\x00b", r"t\.csv:1: not UTF-16 \(byte 0x62\)"),
        ("t.jsonl", b"", r"t\.jsonl:1: empty, expected JSON objects, one a line"),
        ("t.jsonl", b"[]\n", r"t\.jsonl:1: a JSON list, expected an object"),
        ("t.csv", b"text,label\n", "no labels, expected one in each row"),
        (
            "t.jsonl",
            b'{"text": "a", "labels": null}\n{"text": "a", "labels": ["x", "y"]}\n',
            r"t\.jsonl:2: labels is \['x', 'y'\], expected a text or a number$",
        ),
        ("t.csv", b"words,kind\na b,x\n", "label_column is missing and not obvious, expected some of .words, kind."),
        ("t.csv", b"text,score,rating\na b,1,2\n", "label_column is missing and not obvious"),
        ("t.csv", b"a,b\nx,y\n", "text_columns and label_column are missing and not obvious"),
        (
            "t.csv",
            b",label\na b,x\n",
            r"some of .\(unnamed\), label.; a column without a name needs one \(tasks\.toml",
        ),
        ("t.xlsx", b"PK", r"t\.xlsx: a file of unknown form, expected \.csv, \.tsv, \.jsonl"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as raised:
        rows_of(tmp_path / name)
    assert len(str(raised.value)) <= 500
    assert "\n" not in str(raised.value)


def test_texts_to_predict_may_be_in_any_form_and_each_row_has_its_place(tmp_path):
    task = TableTask(replace(SPEC, train=str(lines(tmp_path / "t.csv", "text,label", "a,x", "b,y")))).task()
    for path in (
        lines(tmp_path / "p.txt", "text", "a", "", '"b', 'c"'),
        lines(tmp_path / "p.tsv", "Text\tx", "a\t1", "", '"b\nc"\t2'),
        lines(tmp_path / "p.jsonl", '{"text": "a"}', '{"other": 1, "text": null}', '{"text": "b\\nc"}'),
    ):
        found = read_plain_table(task, path)
        assert [(one.id, one.first) for one in found] == [("1", "a"), ("2", ""), ("3", "b\nc")], path
    with pytest.raises(InputError, match=r"p\.txt: text column 'text' is no column.*expected some of \[words\]"):
        read_plain_table(task, lines(tmp_path / "p.txt", "words", "a"))
    with pytest.raises(InputError, match=r"p\.jsonl:2: text is 5"):
        read_plain_table(task, lines(tmp_path / "p.jsonl", '{"text": "a"}', '{"text": 5}'))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/tickets.csv", "tickets"),
        ("a/Our tickets-2024.tsv.gz", "Our_tickets_2024"),
        ("a/MRPC/train.tsv", "MRPC"),
        ("a/2024.jsonl", "task_2024"),
        ("a/sst.csv", "task_sst"),
        ("a/items.csv", "task_items"),
        ("owner/films:small", "films"),
        ("\u00e9.csv", "task"),
    ],
)
def test_a_task_is_called_as_its_file(path, name):
    assert task_name(path) == name


def test_no_file_is_called_as_something_that_torchs_modules_have_themselves(tmp_path):
    modules = (nn.ModuleDict(), ProjectedAttention)
    taken = {name for module in modules for name in dir(module) if name[:1].isalpha()}
    taken -= {"smart_apply"}  # which transformers adds to torch's modules where it is imported
    # A name made of a file's ends with no underscore.
    assert {name for name in taken if not name.endswith("_")} <= MODULE_NAMES
    path = lines(tmp_path / "keys.csv", "text,label", "a,x", "b,y")
    assert TableTask(replace(SPEC, train=str(path), name=task_name(str(path)))).task().name == "task_keys"
