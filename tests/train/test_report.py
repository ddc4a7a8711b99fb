"""The metrics log of a run that goes on."""

import subprocess

import pytest

from concord.bert.errors import InputError
from concord.train.outputs.report import METRICS_FILE, MetricsLog, commit
from tests.full_disk import full_disk


def test_a_log_that_is_cut_off_counts_only_what_it_keeps(tmp_path):
    log = MetricsLog(tmp_path)
    log.write({"step": 1})
    keep = log.length
    log.write({"step": 2})
    log.close()
    resumed = MetricsLog(tmp_path, keep=keep)
    assert resumed.length == keep
    resumed.write({"step": 3})
    resumed.close()
    assert (tmp_path / METRICS_FILE).read_text() == '{"step": 1}\n{"step": 3}\n'


@pytest.mark.parametrize("found", [b"", b'{"step": 1}\n', None])
def test_a_log_that_is_shorter_than_what_is_to_be_kept_is_refused_and_left_alone(tmp_path, found):
    path = tmp_path / METRICS_FILE
    if found is not None:
        path.write_bytes(found)
    with pytest.raises(InputError, match=rf"metrics.jsonl: {len(found or b'')} bytes, expected at least the 24 "):
        MetricsLog(tmp_path, keep=24)
    assert (path.read_bytes() if path.exists() else None) == found


def test_a_log_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    log = MetricsLog(tmp_path)
    with pytest.raises(OSError, match="File too large") as raised, full_disk(10):
        log.write({"losses": [1.0] * 10})
    assert raised.value.filename == str(tmp_path / METRICS_FILE)


def test_a_source_without_its_history_is_of_the_commit_that_it_was_copied_from(monkeypatch):
    def no_checkout(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    assert commit() is None or len(commit().removesuffix("+changes")) == 40
    monkeypatch.setattr(subprocess, "run", no_checkout)
    monkeypatch.delenv("CONCORD_COMMIT", raising=False)
    assert commit() is None
    monkeypatch.setenv("CONCORD_COMMIT", "0123456789")
    assert commit() == "0123456789"
