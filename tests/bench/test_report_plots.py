"""The report's plots: drawn where there are rows for them, through the points that the files hold."""

import pytest

from bench import report_plots
from bench.result_files import newest_comparisons, read_results
from tests.bench.samples import MODULE, row, write


def plotted(folder):
    paths = report_plots.draw_plots(newest_comparisons(read_results(folder)), folder)
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in paths)
    return [path.name for path in paths]


def test_every_plot_is_drawn_where_there_are_rows_for_it(tmp_path):
    rows = [
        row(case={"tokens": n, "tasks": t}, floor_seconds=1e-4, extra={"parameters": 1000 * t})
        for n in (64, 128)
        for t in (2, 3)
    ]
    rows += [row("MiniLM", peer, median, group="step") for peer, median in (("concord", 1.0), ("torch", 3.0))]
    write(tmp_path, rows)
    assert plotted(tmp_path) == [
        "nvidia-h200-steps.png",
        "nvidia-h200-roofline.png",
        "nvidia-h200-scaling-tokens.png",
        "nvidia-h200-scaling-tasks.png",
        "nvidia-h200-scaling-parameters.png",
    ]


def test_nothing_is_drawn_where_there_is_nothing_to_compare(tmp_path):
    steps = [row(group="step"), row(group="step", peer="torch", parity=[MODULE])]
    write(tmp_path, [*steps, row(case={"dtype": "float32"}, floor_seconds=1e-4)])
    assert plotted(tmp_path) == []


@pytest.fixture
def lines(monkeypatch):
    """Every (label, points) that is drawn as a line."""
    found = []
    original = report_plots._draw

    def record(axes, points):
        original(axes, points)
        found.extend((line.get_label(), list(map(tuple, line.get_xydata()))) for line in axes.get_lines())

    monkeypatch.setattr(report_plots, "_draw", record)
    return found


def test_the_roofline_is_the_share_of_the_limit_over_tokens_a_kernel_and_dtype(tmp_path, lines):
    write(
        tmp_path,
        [
            row(case={"tokens": n, "sequences": n // 64, "dtype": dtype}, median=2.0, floor_seconds=n / 1024)
            for dtype in ("bfloat16", "float32")
            for n in (512, 256)
        ],
    )
    report_plots._roofline(newest_comparisons(read_results(tmp_path))["NVIDIA H200"])
    points = [(256, 12.5), (512, 25.0)]
    assert lines == [("gelu dtype bfloat16", points), ("gelu dtype float32", points)]


def test_time_scales_along_what_the_case_or_the_extras_say(tmp_path, lines):
    models = {"minilm": 20, "base": 100}
    rows = [
        row(peer=peer, median=factor * p, case={"model": m, "tasks": 3}, extra={"parameters": p})
        for m, p in models.items()
        for peer, factor in (("concord", 1.0), ("torch", 2.0))
    ]
    refused = [row | {"peer": "refused", "parity": [MODULE]} for row in rows if row["peer"] == "torch"]
    write(tmp_path, rows + refused)
    comparisons = newest_comparisons(read_results(tmp_path))["NVIDIA H200"]
    assert report_plots._scaling(comparisons, "tasks") is None  # at one number of tasks only
    report_plots._scaling(comparisons, "parameters")
    assert lines == [("concord", [(20, 20), (100, 100)]), ("torch", [(20, 40), (100, 200)])]
