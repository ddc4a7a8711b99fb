"""Reading the course's layout: what is kept, what is a bad row, and what stops a run."""

import os

import pytest

from concord.bert.errors import InputError
from concord.train.data.course import read_plain_input, read_split, with_labels
from concord.train.data.tasks import Task, select_tasks

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)
SINGLE = "\tid\tsentence\tsentiment"
PAIR = "\tid\tsentence1\tsentence2\tsimilarity"
DUPLICATE = "\tid\tsentence1\tsentence2\tis_duplicate"


def write(path, *lines):
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path


def read(task, directory, *lines, split="train", skip_bad_rows=False):
    name = f"{task.stem}-test-student.csv" if split == "test" else f"{task.stem}-{split}.csv"
    write(directory / name, *lines)
    return read_split(task, directory, split, skip_bad_rows=skip_bad_rows)


def test_single_sentences_are_read_without_their_leading_space(tmp_path):
    found = read(SST, tmp_path, SINGLE, "0\tx1\t A fine film .\t3", "1\tx2\t Dull\t0")
    assert [(example.id, example.first, example.second, example.label) for example in found.examples] == [
        ("x1", "A fine film .", None, 3.0),
        ("x2", "Dull", None, 0.0),
    ]
    assert found.examples[1].source == f"{tmp_path / 'ids-sst-train.csv'}:3"
    assert found.bad_rows == []


def test_pairs_are_read_with_their_score(tmp_path):
    (example,) = read(STS, tmp_path, PAIR, "7\ty\tOne dog.\t Two dogs.\t2.75", split="dev").examples
    assert (example.first, example.second, example.label) == ("One dog.", "Two dogs.", 2.75)


def test_quoted_columns_lose_their_quotes(tmp_path):
    rows = [
        '0\tx\t""" Well"" , he said"\t1',
        '1\ty\t5" of rain "today"\t1',
        '2\tz\t"a\ttab"\t1',
    ]
    found = read(SST, tmp_path, SINGLE, *rows)
    assert [example.first for example in found.examples] == ['" Well" , he said', '5" of rain "today"', "a\ttab"]


def test_a_repeated_pair_with_another_score_is_kept(tmp_path):
    found = read(STS, tmp_path, PAIR, "0\ta\tx\ty\t1.0", "1\tb\tx\ty\t2.0")
    assert [example.label for example in found.examples] == [1.0, 2.0]


def test_windows_line_ends_a_byte_order_mark_and_empty_lines_are_harmless(tmp_path):
    (tmp_path / "ids-sst-train.csv").write_bytes(f"\ufeff{SINGLE}\r\n0\tx\tFine\t3\r\n\r\n1\ty\tBad\t1".encode())
    found = read_split(SST, tmp_path, "train", skip_bad_rows=False)
    assert [(example.first, example.label) for example in found.examples] == [("Fine", 3.0), ("Bad", 1.0)]
    assert found.examples[1].source.endswith(":4")


def test_line_separators_within_a_sentence_do_not_end_its_row(tmp_path):
    odd = "a\u2028b\x85c\x0bd\x1ce"
    (example,) = read(SST, tmp_path, SINGLE, f"0\tx\t{odd}\t2").examples
    assert example.first == odd


@pytest.mark.parametrize(
    ("header", "row"), [("0\t\tid\tsentence", "1\t0.0\tx\t Fine"), ("\tid\tsentence", "1\tx\t Fine")]
)
def test_test_files_have_no_labels(tmp_path, header, row):
    (example,) = read(SST, tmp_path, header, row, split="test").examples
    assert (example.id, example.first, example.label) == ("x", "Fine", None)


def test_both_headers_of_test_files_are_named_where_neither_is_found(tmp_path):
    expected = r"expected \[\(unnamed\), id, sentence\] or \[0, \(unnamed\), id, sentence\]"
    with pytest.raises(InputError, match=expected):
        read(SST, tmp_path, "\t\tid\tsentence", "1\t0.0\tx\t Fine", split="test")


def test_a_pairs_test_file_is_read(tmp_path):
    (example,) = read(STS, tmp_path, "\tid\tsentence1\tsentence2", "1\tx\ta\tb", split="test").examples
    assert (example.first, example.second, example.label) == ("a", "b", None)


def test_a_missing_test_file_is_no_error(tmp_path):
    assert read_split(STS, tmp_path, "test", skip_bad_rows=False) is None


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_missing_train_or_dev_file_is_named(tmp_path, split):
    with pytest.raises(InputError, match=rf"sts-{split}\.csv: cannot be read"):
        read_split(STS, tmp_path, split, skip_bad_rows=True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_directory_is_named(tmp_path, split):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        read_split(STS, tmp_path / "nowhere", split, skip_bad_rows=True)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("0\tx\ta\tb", "4 columns, expected 5"),
        ("0\tx\ta\tb\t1.0\tmore", "6 columns, expected 5"),
        ('0\tx\t"a\tb\t1.0', "a stray quote"),
        ('0\tx\t"a" b\tb\t1.0', "a stray quote"),
        ("0\tx\t  \tb\t1.0", "sentence1 is empty"),
        ('0\tx\ta\t""\t', "sentence2 is empty"),
        ("0\t\ta\tb\t1.0", "id is empty"),
        ("0\tx\ta\tb\t", "is_duplicate is '', expected a whole number from 0 to 1"),
        ("0\tx\ta\tb\tyes", "is_duplicate is 'yes'"),
        ("0\tx\ta\tb\t0.5", r"is_duplicate is '0\.5'"),
        ("0\tx\ta\tb\t2.0", r"is_duplicate is '2\.0'"),
        ("0\tx\ta\tb\t-1", "is_duplicate is '-1'"),
        ("0\tx\ta\tb\tnan", "is_duplicate is 'nan'"),
        ("0\tx\ta\tb\tinf", "is_duplicate is 'inf'"),
        ("0\tx\ta\tb\t0_1", "is_duplicate is '0_1'"),
    ],
)
def test_a_bad_row_is_lost_alone_and_named_by_its_line(tmp_path, row, problem):
    rows = [DUPLICATE, "0\tgood1\ta\tb\t1.0", row, '1\tgood2\t"""a"""\tb\t0.0', "2\tgood3\ta\tb\t1.0"]
    with pytest.raises(InputError, match=rf"^1 bad row: .*quora-train\.csv:3: {problem}.*--skip-bad-rows") as caught:
        read(PARAPHRASE, tmp_path, *rows)
    assert "\n" not in str(caught.value)
    found = read(PARAPHRASE, tmp_path, *rows, skip_bad_rows=True)
    assert [example.id for example in found.examples] == ["good1", "good2", "good3"]
    assert [example.source.rsplit(":")[-1] for example in found.examples] == ["2", "4", "5"]
    (message,) = found.bad_rows
    assert message.startswith(f"{tmp_path / 'quora-train.csv'}:3: ")


@pytest.mark.parametrize("score", ["-0.1", "5.01", "nan", "four", ""])
def test_a_score_outside_its_range_is_a_bad_row(tmp_path, score):
    with pytest.raises(InputError, match="expected a number from 0 to 5"):
        read(STS, tmp_path, PAIR, f"0\tx\ta\tb\t{score}")


def test_many_bad_rows_are_counted_and_five_are_named(tmp_path):
    with pytest.raises(InputError, match=r"^7 bad rows: .*and 2 more") as caught:
        read(SST, tmp_path, SINGLE, *["0\tx\ta\t9"] * 7)
    assert str(caught.value).count("sentiment is '9'") == 5


def test_a_training_set_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="task sst with no training rows"):
        read(SST, tmp_path, SINGLE)
    with pytest.raises(InputError, match="task sst with no training rows"):
        read(SST, tmp_path, SINGLE, "0\tx\ta\t9", skip_bad_rows=True)


@pytest.mark.parametrize("header", [DUPLICATE, "id\tsentence1\tsentence2\tsimilarity", PAIR.replace("\t", ","), '"'])
def test_another_header_is_shown_beside_the_expected_one(tmp_path, header):
    expected = r"expected \[\(unnamed\), id, sentence1, sentence2, similarity\]"
    with pytest.raises(InputError, match=rf"sts-train\.csv:1: header is .*{expected}"):
        read(STS, tmp_path, header, "0\tx\ta\tb\t1.0")


@pytest.mark.parametrize(("sign", "told"), [(",", True), (";", True), ("\t", False)])
def test_a_header_without_tabs_is_said_to_have_none(tmp_path, sign, told):
    with pytest.raises(InputError) as caught:
        read(STS, tmp_path, sign.join(["id", "sentence1", "sentence2"]))
    assert ("(one column, with no tab in it), expected [(unnamed), id" in str(caught.value)) == told


def test_a_file_of_one_line_is_not_shown_whole(tmp_path):
    with pytest.raises(InputError) as caught:
        read(STS, tmp_path, "id,sentence1\r" * 1000)
    assert len(str(caught.value)) < 400
    assert "\r" not in str(caught.value)


def test_a_very_long_quoted_text_is_read(tmp_path):
    found = read(SST, tmp_path, SINGLE, '0\tx\t"' + "film " * 40_000 + '"\t3')
    assert len(found.examples[0].first) > 190_000


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "ids-sst-train.csv").write_bytes(SINGLE.encode() + b"\n0\tx\tcaf\xe9 noir\t3\n")
    with pytest.raises(InputError, match=r"ids-sst-train\.csv:2: not UTF-8 \(byte 0xe9\)"):
        read_split(SST, tmp_path, "train", skip_bad_rows=True)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n0\tx\ta\t1\n"])
def test_a_file_that_starts_with_no_header_is_named(tmp_path, content):
    (tmp_path / "ids-sst-train.csv").write_bytes(content)
    with pytest.raises(InputError, match="starts with no header"):
        read_split(SST, tmp_path, "train", skip_bad_rows=True)


def test_a_directory_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "ids-sst-dev.csv").mkdir()
    with pytest.raises(InputError, match=r"ids-sst-dev\.csv: cannot be read"):
        read_split(SST, tmp_path, "dev", skip_bad_rows=True)


def test_plain_input_needs_the_text_columns_alone(tmp_path):
    path = write(tmp_path / "in.tsv", "sentence2\tsentence1", "b\ta", "d\tc")
    found = read_plain_input(STS, path)
    assert [(example.id, example.first, example.second) for example in found] == [("1", "a", "b"), ("2", "c", "d")]
    assert all(example.label is None for example in found)


def test_plain_input_takes_ids_and_ignores_labels(tmp_path):
    path = write(tmp_path / "in.tsv", SINGLE, "0\tx\t Fine\tno label")
    (example,) = read_plain_input(SST, path)
    assert (example.id, example.first, example.label) == ("x", "Fine", None)


@pytest.mark.parametrize("header", ["text", "sentence\tsentence", "id\tid\tsentence", "sentence1\tsentence2"])
def test_plain_input_without_the_text_columns_is_refused(tmp_path, header):
    with pytest.raises(InputError, match=r"in\.tsv:1: header is .*expected task sst's columns \[sentence\]"):
        read_plain_input(SST, write(tmp_path / "in.tsv", header, "a\tb"))


def test_a_bad_row_of_plain_input_stops_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"in\.tsv:4: 2 columns, expected 1"):
        read_plain_input(SST, write(tmp_path / "in.tsv", "sentence", "a", "", "b\tc"))


def test_every_row_of_plain_input_has_its_place_blank_ones_too(tmp_path):
    found = read_plain_input(STS, write(tmp_path / "in.tsv", "sentence1\tsentence2", "a\tb", "", " \tc", "d\te", ""))
    assert [(example.id, example.first, example.second) for example in found] == [
        *(("1", "a", "b"), ("2", "", ""), ("3", "", "c"), ("4", "d", "e"), ("5", "", ""))
    ]
    found = read_plain_input(SST, write(tmp_path / "in.tsv", "id\tsentence", "x\ta", "\r", "y\t", "\tb"))
    assert [(example.id, example.first) for example in found] == [("x", "a"), ("", ""), ("y", ""), ("", "b")]


def test_plain_input_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match="no rows"):
        read_plain_input(SST, write(tmp_path / "in.tsv", "sentence"))


def own_task(stem="mail"):
    columns = {"text_columns": ("text",), "label_column": "spam", "prediction_column": "p"}
    return Task(name="spam", kind="binary", pair=False, classes=1, low=0, high=1, stem=stem, **columns)


def test_a_file_that_a_tasks_toml_names_lies_within_its_folder_whatever_links_lead_out_of_it(tmp_path):
    outside = write(tmp_path / "secret.csv", "\tid\ttext\tspam", "0\tx\tsecret\t1")
    folder = tmp_path / "data"
    (folder / "more").mkdir(parents=True)
    (folder / "mail-train.csv").symlink_to(outside)
    with pytest.raises(InputError, match=r"mail-train\.csv: it lies at .*secret\.csv, expected a file within"):
        read_split(own_task(), folder, "train", skip_bad_rows=False)
    write(folder / "more" / "mail-train.csv", "\tid\ttext\tspam", "0\tx\tours\t1")
    (folder / "mail-dev.csv").symlink_to(folder / "more" / "mail-train.csv")
    for task, split in ((own_task("more/mail"), "train"), (own_task(), "dev")):
        assert read_split(task, folder, split, skip_bad_rows=False).examples[0].first == "ours"
    with pytest.raises(InputError, match="stem is"):
        own_task("../secret")


def test_the_users_own_links_to_a_built_in_tasks_files_are_followed(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ids-sst-train.csv").symlink_to(write(tmp_path / "elsewhere.csv", SINGLE, "0\tx\ta\t1"))
    assert len(read_split(SST, tmp_path / "data", "train", skip_bad_rows=False).examples) == 1


def test_a_pipe_in_place_of_a_data_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "ids-sst-train.csv")
    with pytest.raises(InputError, match="a pipe or a device, expected a tab-delimited file in a plain file"):
        read_split(SST, tmp_path, "train", skip_bad_rows=False)


@pytest.mark.parametrize("text", ["x" * 50_000_000, '"' + "x " * 25_000_000 + '"'], ids=["plain", "quoted"])
def test_a_row_of_fifty_million_characters_is_a_bad_row(tmp_path, text):
    lines = [SINGLE, f"0\tx\t{text}\t3", "1\ty\tgood\t3"]
    with pytest.raises(InputError, match="csv:2: 50000003 characters, expected 1048576 at most") as raised:
        read(SST, tmp_path, *lines)
    assert len(str(raised.value)) <= 500
    assert len(read(SST, tmp_path, *lines, skip_bad_rows=True).examples) == 1


def test_a_header_that_differs_in_what_nobody_sees_does_not_look_like_the_expected_one(tmp_path):
    for sign, escape in (("\u200b", "\\u200b"), ("\u00a0", "\\xa0"), ("\r", "\\r")):
        with pytest.raises(InputError) as raised:
            read(SST, tmp_path, SINGLE + sign + ("x" if sign == "\r" else ""), "0\tx\ta\t1")
        assert f"sentiment{escape}" in str(raised.value)
        assert "expected [(unnamed), id, sentence, sentiment]" in str(raised.value)


def test_lines_that_end_with_cr_alone_are_read(tmp_path):
    rows = "".join(f"{index}\tx{index}\ta text\t{index % 5}\r" for index in range(10_000))
    (tmp_path / "ids-sst-train.csv").write_bytes((SINGLE + "\r" + rows).encode())
    found = read_split(SST, tmp_path, "train", skip_bad_rows=False).examples
    assert len(found) == 10_000
    assert (found[-1].id, found[-1].label, found[-1].source.rpartition(":")[2]) == ("x9999", 4.0, "10001")


def test_a_header_of_thousands_of_cells_is_one_bounded_message(tmp_path):
    with pytest.raises(InputError, match=r":1: header is \[\(unnamed\), id, sentence") as raised:
        read(SST, tmp_path, "\t".join([SINGLE] * 10_000))
    assert str(raised.value).endswith("expected [(unnamed), id, sentence, sentiment]")
    assert len(str(raised.value)) <= 500


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_quoted_cell_may_span_lines(tmp_path, end):
    rows = [SINGLE, '0\tx\t"a good one,', "", 'in ""three"" lines"\t4', "1\ty\tplain\t1"]
    (tmp_path / "ids-sst-train.csv").write_bytes("".join(row + end for row in rows).encode())
    first, second = read_split(SST, tmp_path, "train", skip_bad_rows=False).examples
    assert (first.first, first.label) == ('a good one,\n\nin "three" lines', 4.0)
    assert [example.source.rpartition(":")[2] for example in (first, second)] == ["2", "5"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_a_file_is_encoded(tmp_path, encoding):
    (tmp_path / "ids-sst-train.csv").write_bytes(f"{SINGLE}\n0\tx\tcaf\xe9\t3\n".encode(encoding))
    (example,) = read_split(SST, tmp_path, "train", skip_bad_rows=False).examples
    assert example.first == "caf\xe9"


def test_labels_of_a_task_of_ones_own_may_be_texts(tmp_path):
    header = "\tid\ttext\tspam"
    write(tmp_path / "mail-train.csv", header, "0\ta\tbuy\tspam", "1\tb\thello\t ham ")
    write(tmp_path / "mail-dev.csv", header, "0\tc\tbuy\tham", "1\td\tsell\teggs")
    task = with_labels(own_task(), tmp_path)
    assert task.labels == ("ham", "spam")
    assert [one.label for one in read_split(task, tmp_path, "train", skip_bad_rows=False).examples] == [1, 0]
    with pytest.raises(
        InputError, match=r"mail-dev\.csv:3: spam is 'eggs', which the training set has not, .*ham, spam"
    ):
        read_split(task, tmp_path, "dev", skip_bad_rows=False)


@pytest.mark.parametrize("cell", ["1e30", "9" * 400 + ".0"])
def test_a_label_beyond_all_measure_is_a_bad_row_and_hides_no_other(tmp_path, cell):
    write(tmp_path / "mail-train.csv", "\tid\ttext\tspam", "0\ta\tbuy\tspam", f"1\tb\thi\t{cell}", "2\tc\thello\tham")
    task = with_labels(own_task(), tmp_path)
    assert task.labels == ("ham", "spam")
    found = read_split(task, tmp_path, "train", skip_bad_rows=True)
    assert [one.label for one in found.examples] == [1, 0]
    assert found.bad_rows[0].startswith(f"{tmp_path / 'mail-train.csv'}:3: spam is '{cell[:4]}")


def test_texts_that_are_not_as_many_as_the_classes_are_no_labels_and_the_key_is_named(tmp_path):
    write(tmp_path / "mail-train.csv", "\tid\ttext\tspam", "0\ta\tbuy\tspam", "1\tb\thello\tham", "2\tc\thi\teggs")
    assert with_labels(own_task(), tmp_path) == own_task()
    with pytest.raises(InputError, match=r"spam is 'spam', expected .* from 0 to 1, or labels = \[\.\.\.\] in tasks"):
        read_split(own_task(), tmp_path, "train", skip_bad_rows=False)
