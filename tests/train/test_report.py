"""The metrics log of a run that goes on."""

import json
import zlib

import pytest

from concord.train.outputs.log import MetricsLog, read_lines
from concord.train.outputs.names import METRICS_FILE
from tests.full_disk import full_disk
from tests.train.told import Told


def written(directory, *entries):
    """A log with these entries; how long it is after each."""
    log = MetricsLog(directory)
    lengths = []
    for entry in entries:
        log.write(entry)
        lengths.append(log.sync())
    log.close()
    return lengths


def of_step(step, **more):
    return {"event": "step", "step": step, **more}


def reopened(directory, keep):
    """What a log that goes on holds, how many damaged lines are in it, and what was said of it."""
    told, log = Told(), MetricsLog(directory)
    log.cut(keep, told)
    log.write(of_step(3))
    found = log.entries()
    assert log.sync() == (directory / METRICS_FILE).stat().st_size
    log.close()
    return *found, told.lines


def test_a_log_that_is_cut_off_counts_only_what_it_keeps(tmp_path):
    keep, _ = written(tmp_path, of_step(1), of_step(2))
    assert reopened(tmp_path, keep) == ([of_step(1), of_step(3)], 0, [])
    first, second = (tmp_path / METRICS_FILE).read_text().splitlines()
    assert json.loads(second).keys() == {"event", "step", "crc"}
    assert first.startswith('{"event": "step", "step": 1, "crc": "')


@pytest.mark.parametrize("lost", [1, 20, 60, 10**6])
def test_a_log_that_lost_its_end_goes_on_with_what_there_is_and_says_so(tmp_path, lost):
    _, keep = written(tmp_path, of_step(1), of_step(2))
    path = tmp_path / METRICS_FILE
    path.write_bytes(path.read_bytes()[:-lost])
    size = path.stat().st_size
    entries, damaged, lines = reopened(tmp_path, keep)
    whole = {1: 2, 20: 1, 60: 0, 10**6: 0}[lost]  # without its line break alone, a line is whole
    assert entries == [*[of_step(1), of_step(2)][:whole], of_step(3)]
    assert damaged == (lost in (20, 60))
    assert lines[0] == f"warning: {path}: {size} bytes, {keep} when the run was saved; what is missing stays so"
    assert len(lines) == 1 + damaged


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_of_a_log_is_taken_for_a_value(tmp_path, bit):
    keep = written(tmp_path, of_step(1, loss=0.25), of_step(2, loss=0.5))[-1]
    path = tmp_path / METRICS_FILE
    sound = path.read_bytes()
    for place in range(len(sound)):
        flipped = bytearray(sound)
        flipped[place] ^= 1 << bit
        entries, damaged = read_lines(bytes(flipped))
        assert all(entry in (of_step(1, loss=0.25), of_step(2, loss=0.5)) for entry in entries)
        assert (len(entries) < 2) == bool(damaged)
    path.write_bytes(bytes(flipped))
    assert reopened(tmp_path, keep)[2] == [f"warning: {path}: 1 damaged lines; summary and pictures do without them"]


@pytest.mark.parametrize(
    "content", [{"step": 2}, {"event": 1, "step": 2}, {"event": "step"}, {"event": "step", "step": True}]
)
def test_a_line_that_is_no_entry_is_left_out_though_its_checksum_is_right(content):
    def line(text):
        return f'{text[:-1]}, "crc": "{zlib.crc32(text.encode()):08x}"}}'

    lines = [line(json.dumps(of_step(1))), line(json.dumps(content)), line('{"event": "step", "step": }')]
    assert read_lines("\n".join(lines).encode()) == ([of_step(1)], 2)


def test_a_log_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    log = MetricsLog(tmp_path)
    with pytest.raises(OSError, match="File too large") as raised, full_disk(10):
        log.write({"losses": [1.0] * 10})
    assert raised.value.filename == str(tmp_path / METRICS_FILE)
