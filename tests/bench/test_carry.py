"""What is packed for another machine: the first lines of each file, and nothing of a folder that has none."""

import pytest

from bench.carry import carry_data
from concord.bert.errors import InputError


def test_each_file_is_cut_after_its_first_lines(tmp_path):
    source, target = tmp_path / "data", tmp_path / "carried"
    source.mkdir()
    (source / "a-train.csv").write_text("header\r\none\r\ntwo\r\nthree\r\n", newline="")
    (source / "a-dev.csv").write_text("header\none\n")
    carry_data(source, target, 3)
    assert (target / "a-train.csv").read_bytes() == b"header\r\none\r\ntwo\r\n"
    assert (target / "a-dev.csv").read_bytes() == b"header\none\n"


def test_a_folder_without_data_is_refused_and_nothing_is_packed(tmp_path):
    with pytest.raises(InputError, match=r"--data .*nowhere: no \.csv file there"):
        carry_data(tmp_path / "nowhere", tmp_path / "carried", 3)
    assert not (tmp_path / "carried").exists()
