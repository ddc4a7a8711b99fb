"""The pictures of a run: what they show is read back from the figure before it is written."""

import numpy as np
import pytest

from concord.train.outputs import plots


def entry(step, sums, met=None):
    """A logged step; met: in how many steps the two tasks met so far, by default in all."""
    met = step if met is None else met
    conflicts = {block: {"a-b": [int(count), total, met]} for block, (count, total) in sums.items()}
    return {"event": "step", "step": step, "cosines": {"a-b": 0.1}, "applied_steps": step, "conflicts": conflicts}


@pytest.fixture
def drawn(monkeypatch):
    """Every (edges, rows, values) that is drawn as a map, and the names of its rows."""
    found = []
    original = plots.Axes.pcolormesh

    def record(self, edges, rows, values, **options):
        found.append((self, list(edges), np.array(values)))
        return original(self, edges, rows, values, **options)

    monkeypatch.setattr(plots.Axes, "pcolormesh", record)
    return found


def test_the_map_shows_each_stretchs_mean_cosine_by_block(tmp_path, drawn):
    lines = [
        entry(10, {"layers.0": (5, 2.0), "model": (0, 5.0)}),
        entry(20, {"layers.0": (15, -6.0), "model": (0, 10.0)}),
        entry(40, {"layers.0": (30, -6.0), "model": (10, 0.0)}),
    ]
    path = plots.plot_conflicts(lines, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    axes, edges, values = drawn[0]  # the colour bar follows
    assert edges == [0, 10, 20, 40]
    assert np.allclose(values, [[0.2, -0.8, 0.0], [0.5, 0.5, -0.5]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layers.0  75%", "model  25%"]


def test_steps_in_which_two_tasks_did_not_meet_count_for_nothing(tmp_path, drawn):
    lines = [entry(10, {"model": (0, 0.0)}, 0), entry(20, {"model": (1, 2.0)}, 4), entry(30, {"model": (3, 1.0)}, 6)]
    plots.plot_conflicts(lines, tmp_path)
    axes, _, values = drawn[0]
    assert np.allclose(values, [[np.nan, 0.5, -0.5]], equal_nan=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model  50%"]


def test_two_tasks_that_meet_nowhere_have_an_empty_row(tmp_path, drawn):
    lines = [entry(10, {"layers.0": (2, 1.0)}, 10)]
    lines[0]["conflicts"]["pooler"] = {"a-b": [0, 0.0, 0]}
    plots.plot_conflicts(lines, tmp_path)
    axes, _, values = drawn[0]
    assert np.allclose(values, [[0.1], [np.nan]], equal_nan=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layers.0  20%", "pooler  -"]


def test_a_run_of_one_task_has_no_map(tmp_path):
    line = entry(1, {}) | {"cosines": {}}
    assert plots.plot_conflicts([line], tmp_path) is None


def test_a_long_run_is_drawn_in_a_bounded_number_of_columns(tmp_path, drawn):
    lines = [entry(step, {"model": (0, 0.25 * step)}) for step in range(1, 500)]
    plots.plot_conflicts(lines, tmp_path)
    assert drawn[0][2].shape == (1, 60)
    assert np.allclose(drawn[0][2], 0.25)


def test_a_value_that_is_not_finite_leaves_the_bold_line_as_it_is(tmp_path, monkeypatch):
    values = [1.0, 2.0, float("nan"), float("inf"), 3.0]
    lines = [
        {"event": "step", "step": step, "losses": {"sst": value}, "cosines": {}} for step, value in enumerate(values)
    ]
    drawn = []
    monkeypatch.setattr(plots.Axes, "plot", lambda self, steps, values, **options: drawn.append(list(values)))
    monkeypatch.setattr(plots.Axes, "legend", lambda self, **options: None)
    plots.plot_curves(lines, tmp_path)
    raw, bold = drawn
    assert np.array_equal(raw, values, equal_nan=True)
    second = (0.8 * 0.2 * 1 + 0.2 * 2) / (0.8 * 0.2 + 0.2)
    fifth = (0.8**2 * 0.2 * 1 + 0.8 * 0.2 * 2 + 0.2 * 3) / (0.8**2 * 0.2 + 0.8 * 0.2 + 0.2)
    assert np.allclose(bold, [1.0, second, second, second, fifth])


def test_a_bold_line_begins_with_the_first_finite_value():
    assert np.array_equal(plots._smoothed([float("nan"), 2.0]), [float("nan"), 2.0], equal_nan=True)
