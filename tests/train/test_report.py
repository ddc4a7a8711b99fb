"""The metrics log of a run that goes on."""

from train.report import METRICS_FILE, MetricsLog


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
