"""What a tasks.toml and the flags say of tables: read whole, refused in one line that says what to type instead."""

import os
import re
import subprocess
import sys

import pytest

from concord.bert.errors import InputError
from concord.train import data_check, pretrain, run
from concord.train.command import run_command
from concord.train.data.sources import FileSource, open_source
from concord.train.data.tasks import BUILT_IN_TASKS
from concord.train.data.texts import read_texts
from concord.train.flags import build_parser, config_from, resumed_config
from concord.train.reporter import SILENT
from concord.train.settings.definitions import COURSE_TASKS, TableSpec, read_specs
from concord.train.settings.typed import fine_tuning_config, pretraining_config
from tests.train.own_data import all_four, lines, pairs, tickets
from tests.train.small_runs import refused, write_course_data


def define(folder, text):
    (folder / "tasks.toml").write_text(text, encoding="utf-8")
    return folder / "tasks.toml"


def config(*words):
    return config_from(build_parser().parse(list(map(str, words))))


def test_every_key_is_read(tmp_path):
    text = """[own]
train = "a.csv"
validation = "b.csv"
test = "c.csv"
text_columns = [4]
label_column = 2
id_column = "key"
kind = "classification"
labels = ["no", 1]
delimiter = "tab"
quoting = "none"
header = false
limit = 10
weight = 2
low = 1
high = 2.5
"""
    (spec,) = read_specs(define(tmp_path, text), confined=True).values()
    assert spec == TableSpec(
        name="own",
        train="a.csv",
        validation="b.csv",
        test="c.csv",
        text_columns=("4",),
        label_column="2",
        id_column="key",
        kind="classification",
        labels=("no", "1"),
        delimiter="\t",
        quoting="none",
        header=False,
        limit=10,
        weight=2.0,
        low=1.0,
        high=2.5,
        folder=tmp_path,
        confined=True,
        named_by=f"{tmp_path / 'tasks.toml'}: task own",
    )


def test_the_built_in_tasks_are_these():
    assert tuple(task.name for task in BUILT_IN_TASKS) == COURSE_TASKS


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("validaton = 'x.csv'", r"unknown key 'validaton', expected one of .*; did you mean 'validation'\?"),
        ("stem = 'x'", "stem is of files in the course's layout, expected train = FILE or it alone"),
        ("test = 3", "test is 3, expected a text"),
        ("validation_split = 1.0", r"validation_split is 1\.0, expected a share between 0 and 1, such as 0\.1"),
        ("validation_split = 0.1\nvalidation = 'x'", "validation and validation_split are both given, expected one"),
        ("text_columns = 'a'", "text_columns is 'a', expected a list of one column, or of two different ones"),
        ("text_columns = ['a', 'a']", "expected a list of one column, or of two different ones"),
        ("text_columns = [0]", "expected a column's name, or its number from 1 where the file has no header"),
        ("label_column = ''", "label_column is '', expected a column's name, or its number"),
        ("kind = 'ranking'", "kind is 'ranking', expected one of classification, binary, regression"),
        ("labels = ['a', 'a']", "expected a list of two labels or more, all different"),
        ("labels = ['a', 'b']\nkind = 'regression'", "labels are of classes, expected none for kind regression"),
        ("low = nan", "low is nan, expected a number"),
        ("header = 1", "header is 1, expected true or false"),
        ("delimiter = ', '", r"delimiter is ', ', expected one character, such as \";\" or \"\\t\""),
        ("quoting = 'all'", "quoting is 'all', expected one of standard, none"),
        ("limit = 0", "limit is 0, expected a whole number of at least 1"),
        ("weight = -1", "weight is -1, expected a number of at least 0"),
    ],
)
def test_a_wrong_key_is_named_with_what_is_expected(tmp_path, line, said):
    path = define(tmp_path, f"[own]\ntrain = 'a.csv'\n{line}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: task own: .*{said}") as raised:
        read_specs(path, confined=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "class_weights = {spam = 2}",
            r"class_weights has the label 'spam', expected some of account, billing, shipping",
        ),
        ("class_weights = {billing = -1}", "class_weights gives 'billing' -1, expected a number from 0 to"),
        ("class_weights = 'even'", "class_weights is 'even', expected balanced, or a number for each label"),
        ("class_weights = {account = 0, billing = 0, shipping = 0}", "class_weights is 0 for every label, expected"),
        ("metric = 'f1'", "metric is 'f1', expected one of accuracy, macro-f1, mcc for kind classification"),
    ],
)
def test_what_does_not_fit_the_labels_is_named_with_its_file_and_key(tmp_path, line, said):
    tickets(tmp_path)
    path = define(tmp_path, f"[own]\ntrain = 'tickets.csv'\n{line}\n")
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: task own: {said}") as raised:
        open_source(str(path)).tasks(["own"])
    assert "\n" not in str(raised.value)


def test_everything_that_is_wrong_with_a_task_is_one_line(tmp_path):
    path = define(tmp_path, "[own]\nlimit = 0\nkind = 'x'\nbogus = 1\n")
    with pytest.raises(InputError) as raised:
        read_specs(path, confined=False)
    for part in ("unknown key 'bogus'", "train is missing, expected the file", "limit is 0", "kind is 'x'"):
        assert part in str(raised.value)
    path = define(tmp_path, "[own]\nlabel_column = 'x'\n")
    with pytest.raises(
        InputError, match=r"task own: kind, stem, text_columns, prediction_column are missing; or train ="
    ):
        open_source(str(path)).tasks(["own"])


def test_with_a_folder_nothing_outside_of_it_is_read_and_with_the_file_itself_anything_is(tmp_path):
    outside, folder = tickets(tmp_path), tmp_path / "data"
    folder.mkdir()
    (folder / "link.csv").symlink_to(outside)
    pairs(tmp_path)
    for name in ("../tickets.csv", str(outside), "link.csv", "../pairs"):
        define(folder, f"[own]\ntrain = {name!r}\nlabel_column = 'label'\ntext_columns = ['text']\n")
        with pytest.raises(InputError, match=f"it lies at .*, expected a file within {re.escape(str(folder))}"):
            open_source(str(folder)).tasks(["own"])
        if name != "../pairs":
            assert open_source(str(folder / "tasks.toml")).tasks(["own"])[0].classes == 3
    define(folder, "[own]\ntrain = 'owner/films'\n")
    with pytest.raises(InputError, match=r"a data set of the hub is read where --data names the tasks.toml itself"):
        open_source(str(folder)).tasks(["own"])


def test_a_folders_tasks_are_those_of_its_tasks_toml_unless_it_has_the_courses_files(tmp_path):
    all_four(tmp_path)
    assert config("--data", tmp_path).tasks == ("tickets", "nli", "stars", "pairs")
    write_course_data(tmp_path / "course")
    define(tmp_path / "course", "[own]\ntrain = 'x.csv'\n")
    assert config("--data", tmp_path / "course").tasks == ("sst", "paraphrase", "sts")
    assert config("--data", tmp_path / "course" / "tasks.toml").tasks == ("own",)


def test_both_layouts_may_stand_in_one_file_and_two_tasks_may_read_one(tmp_path):
    write_course_data(tmp_path / "course")
    tickets(tmp_path / "course")
    table = "train = 'tickets.csv'\ntext_columns = ['text']\n"
    define(tmp_path / "course", f"[one]\n{table}label_column = 'label'\n[two]\n{table}label_column = 'created'\n")
    source = FileSource(tmp_path / "course")
    sst, one, two = source.tasks(["sst", "one", "two"])
    assert (sst, one.classes, two.classes) == (BUILT_IN_TASKS[0], 3, 28)
    assert [len(source.read(task, "train", skip_bad_rows=False).examples) for task in (sst, one)] == [24, 37]


def test_limit_takes_rows_evenly_spaced_and_weight_is_a_loss_weight(tmp_path):
    tickets(tmp_path)
    text = "[own]\ntrain = 'tickets.csv'\nlimit = 6\nweight = 0.25\nvalidation = 'tickets.csv'\n"
    path = define(tmp_path, text)
    source = open_source(str(path))
    split = source.read(source.tasks(["own"])[0], "train", skip_bad_rows=False)
    assert [one.id for one in split.examples] == ["1", "7", "14", "21", "27", "34"]
    assert "6 of 40 training rows, evenly spaced (key limit)" in split.notes
    assert config("--data", path).loss_weights_per_task()["own"] == 0.25
    assert config("--data", path, "--loss-weights", "3").loss_weights_per_task()["own"] == 3


def test_a_file_of_rows_is_taken_as_what_it_is_wherever_it_is_given(tmp_path):
    path, folder = tickets(tmp_path), pairs(tmp_path)
    for flag in ("--data", "--train-file"):
        found = config(flag, path, "--text-column", "a", "b", "--label-column", "c")
        assert (found.train_file, found.data, found.tasks) == (str(path), "demo", ("tickets",))
        assert found.text_column == config(flag, path, "--text-column", "a,b").text_column == ("a", "b")
    assert config("--data", folder).train_file == str(folder)
    parts = fine_tuning_config(config("--train-file", path, "--tasks", "help")).data
    assert (parts.source, parts.table.name, parts.table.train) == (str(path), "help", str(path))


def test_a_resumed_run_may_find_its_files_elsewhere(tmp_path):
    path, other = tickets(tmp_path), tickets(tmp_path, name="moved.csv")
    kept = config("--train-file", path)
    found = resumed_config(kept, build_parser().parse(["--train-file", str(other)]), tmp_path)
    assert (found.train_file, found.tasks) == (str(other), ("tickets",))
    assert resumed_config(kept, build_parser().parse(["--data", str(other)]), tmp_path) == found
    for words in (["--validation-file", str(other)], ["--text-column", "x"]):
        with pytest.raises(InputError, match=r"the run in .* has none"):
            resumed_config(kept, build_parser().parse(words), tmp_path)
    with pytest.raises(InputError, match=r"--train-file .*moved\.csv: the run in .* has none"):
        resumed_config(config(), build_parser().parse(["--train-file", str(other)]), tmp_path)
    with pytest.raises(InputError, match=r"--label-column x: the run in .* has none"):
        resumed_config(kept, build_parser().parse(["--label-column", "x"]), tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--train-file {0} --data demo", "--data demo and --train-file: expected one of them"),
        ("--text-column a", "--text-column a: it is of --train-file FILE"),
        ("--validation-file a.csv", "--validation-file .*a.csv: it is of --train-file FILE"),
        ("--train-file {0} --tasks a,b", "--tasks a,b: --train-file is of one task; several are a tasks.toml's"),
        ("--train-file {0} --text-column a b c", "--text-column a,b,c: expected one column, or two different ones"),
        ("--train-file {0} --text-column a --label-column a", r"--train-file: \[a, a\] name a column twice"),
        ("--train-file {0} --tasks train", "task train: name is 'train', which torch's modules use themselves"),
        ("--train-file {1}/none.csv", r"none\.csv: cannot be read \(No such file or directory\), expected \.csv, "),
        ("--train-file {1}/none.parquet", r"none\.parquet: cannot be read, expected a Parquet file"),
        ("--train-file a/b/c", "a/b/c: no such file or folder, expected .csv, .tsv, "),
        ("--train-file {1}", "a folder that `datasets` has not saved, expected .csv, .tsv, "),
        ("--train-file {0} --text-column txt --label-column label", "text column 'txt' is no column, .* mean 'text'"),
        ("--train-file {1}/plain.csv", "--text-column and --label-column are missing and not obvious, .* .a, b."),
        (
            "--data {1}/tables",
            r"tables: neither a tasks\.toml nor files in the course's layout, such as ids-sst-train\.csv, in it; "
            r"expected --train-file FILE for one table; python -m train\.data_check .*tables shows",
        ),
        ("--data {1}/wrong.toml", r"task own: unknown key 'trian', .*; did you mean 'train'\?"),
        ("--data {1}/none.toml", "--data .*none.toml: no such file, expected a tasks.toml or a folder"),
        ("--data {1}/notes.md", "--data .*notes.md: a file, expected a tasks.toml, a folder, or one of .csv, "),
        (
            "--data {1}/empty.toml",
            r"empty\.toml: no task in it, expected a table such as \[reviews\] with train = FILE",
        ),
        ("--data {1} --tasks tickets", r"unknown task 'tickets', .*\(one of your own is a table \[tickets\] in tasks"),
        (
            "--train-file {0} --label-column created --text-column label --validation-file {1}/dev.csv",
            "dev.csv:2: created",
        ),
        ("--train-file {0} --skip-bad-rows --validation-file {1}/plain.csv", "label column 'label' is no column"),
    ],
)
def test_every_refusal_is_one_line_that_says_what_to_type(tmp_path, capsys, words, said):
    path = tickets(tmp_path)
    lines(tmp_path / "plain.csv", "a,b", "x,y", "z,w")
    lines(tmp_path / "dev.csv", "created,label,text", "1999,billing,x")
    lines(tmp_path / "notes.md", "notes")
    lines(tmp_path / "empty.toml")
    lines(tmp_path / "wrong.toml", "[own]", "trian = 'tickets.csv'")
    (tmp_path / "tables").mkdir()
    tickets(tmp_path / "tables")
    flags = [*words.format(path, tmp_path).split(), "--model", "tiny", "--device", "cpu", "--out", tmp_path / "run"]
    line = refused(capsys, run.main, flags)
    assert re.search(said, line), line
    assert len(line) <= 508
    assert not (tmp_path / "run").exists()


def test_a_pipe_in_place_of_a_table_is_refused_and_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "t.csv")
    line = refused(capsys, run.main, ["--train-file", tmp_path / "t.csv", "--model", "tiny", "--device", "cpu"])
    assert "a pipe or a device" in line


def test_flags_of_tables_are_judged_without_anything_heavy(tmp_path):
    path = all_four(tmp_path)
    code = (
        "import sys\nfrom concord.train.flags import build_parser, config_from\n"
        f"print(config_from(build_parser().parse(['--data', {str(path)!r}])).tasks)\n"
        "print([name for name in ('torch', 'numpy', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "('tickets', 'nli', 'stars', 'pairs')\n[]\n"


def page(capsys, *words):
    code = run_command(data_check.main, [*map(str, words), "--model", "tiny"])
    return code, capsys.readouterr().out


def test_the_page_tells_columns_labels_lengths_and_equal_texts_and_its_example_can_be_trained(tmp_path, capsys):
    rows = [f"text number {number},{'ab'[number % 2]}" for number in range(30)]
    rows += ["Text  number 3,a", "text number 4,a", f"{'long ' * 40},b", ",a"]
    train = lines(tmp_path / "train.csv", "text,label", *rows)
    lines(tmp_path / "dev.csv", "text,label", "text number 7,b", "other,a")
    code, text = page(capsys, tmp_path, "--max-length", "20")
    assert code == 0
    assert "  columns    [text, label]\n" in text
    assert f"  train      33 rows; left out: 1 bad row: {train}:35: text is empty, expected a sentence\n" in text
    assert "binary, 2 labels: a 17, b 16; texts text, label label" in text
    assert "  labels     a 51.5%, b 48.5%\n" in text
    assert "1 longer than 20 and cut\n" in text
    assert "  repeated   texts that stand more than once in train: 2, such as train.csv:5, train.csv:32\n" in text
    assert "  in both    texts of dev that stand in train too: 1, such as train.csv:9, dev.csv:2\n" in text
    assert "  differing  texts of train with different labels: 1, such as train.csv:5, train.csv:32\n" in text
    assert len(text.splitlines()) < 40
    example = define(tmp_path, text.partition("# as a tasks.toml")[2].partition("\n")[2])
    (task,) = open_source(str(example)).tasks([config("--data", example).tasks[0]])
    assert (task.labels, task.text_columns, task.label_column) == (("a", "b"), ("text",), "label")


def test_the_page_shows_every_file_of_a_folder_each_as_a_task_of_its_own(tmp_path, capsys):
    for name in ("tickets.v1.csv", "tickets.v2.csv", "a.csv", "a.tsv", "a_2.csv", "items.csv"):
        sign = "\t" if name.endswith(".tsv") else ","
        lines(tmp_path / name, f"text{sign}label", *(f"text {number}{sign}{'xy'[number % 2]}" for number in range(30)))
    code, text = page(capsys, tmp_path)
    assert code == 0
    shown = re.findall(r"^(\w+)\n  columns", text, flags=re.MULTILINE)
    assert shown == ["a", "a_2", "a_2_2", "task_items", "tickets_v1", "tickets_v2"]


def test_the_page_names_all_that_is_missing_in_a_tasks_toml_at_once(tmp_path, capsys):
    tickets(tmp_path)
    good = "[good]\ntrain = 'tickets.csv'\n"
    bad = "[one]\nlimit = 1\n[two]\nkind = 'binary'\n[three]\ntrain = 'none.csv'\n"
    code, text = page(capsys, define(tmp_path, good + bad))
    assert code == 2
    assert text.startswith("good\n  columns    [created, label, text]\n")
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert [re.search(r"task (\w+)|(none)\.csv", line).group(0) for line in errors] == [
        "task one",
        "task two",
        "none.csv",
    ]
    assert "train is missing" in errors[0]
    assert "stem, text_columns, label_column, prediction_column are missing" in errors[1]


def test_the_page_of_the_courses_files_and_of_what_is_no_data(tmp_path, capsys):
    write_course_data(tmp_path / "course")
    code, text = page(capsys, tmp_path / "course")
    assert code == 0
    assert [line for line in text.splitlines() if not line.startswith(" ")] == ["sst", "paraphrase", "sts"]
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["nowhere"], "no such file or folder, expected data"),
        ([tmp_path / "empty"], "no data in it, expected a tasks.toml, or files such as"),
        ([lines(tmp_path / "x.md", "x")], "a file of unknown form, expected a tasks.toml, or"),
        ([all_four(tmp_path), "--label-column", "x"], "says which columns, expected a file of rows"),
        ([tmp_path / "course", "--max-length", "1"], "--max-length 1: expected from 8 to"),
    ):
        assert said in refused(capsys, data_check.main, words)


def test_the_page_takes_columns_with_commas_and_recommends_what_it_reads(tmp_path, capsys):
    path = lines(tmp_path / "t.csv", "one,two,label", *(f"left {n},right {n},{'ab'[n % 2]}" for n in range(30)))
    for columns in (["one,two"], ["one", "two"]):
        code, text = page(capsys, path, "--text-column", *columns)
        assert code == 0
        assert 'text_columns = ["one", "two"]' in text
    assert "hub" not in refused(capsys, data_check.main, [tmp_path / "nosuch"])


def test_pre_training_reads_the_texts_of_a_tasks_tomls_tables(tmp_path):
    settings = pretrain.config_from(pretrain.build_parser().parse(["--data", str(all_four(tmp_path))]))
    assert settings.tasks == ("tickets", "nli", "stars", "pairs")
    texts = read_texts(pretraining_config(settings).data, SILENT)
    assert {"film number 0 was fine", "right text 3", "a dog yes runs"} <= set(texts)
