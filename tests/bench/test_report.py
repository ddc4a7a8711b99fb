"""The report says what the files of results hold, refuses what they do not prove, and names a file that is wrong."""

import json
import re
import subprocess

import pytest

from bench import report
from bench.headline import headline
from bench.page_sections import BEGIN, END
from bench.report import main
from bench.result_files import newest_comparisons, read_results
from concord.bert.errors import InputError
from concord.train.command import run_command
from tests.bench.samples import MODULE, row, write

PASSED = {MODULE: {"passed": 5, "failed": 0, "skipped": 1}}


def written(folder):
    """The Markdown of the files in `folder`."""
    return report.markdown(newest_comparisons(read_results(folder)))


def tables(folder):
    """Each line of the tables as {column: cell}."""
    found, header = [], None
    for line in written(folder).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            header = None
        elif header is None:
            header = cells
        elif set(line) != set("|-"):
            found.append(dict(zip(header, cells, strict=True)))
    return found


def one_line(folder):
    (line,) = tables(folder)
    return line


def test_a_row_shows_time_spread_share_of_the_limit_ratios_tokens_and_padding(tmp_path):
    rows = [
        row(floor_seconds=5e-4, extra={"tokens_per_second": 2048000.4, "padding_share": 0}),
        row(peer="torch", median=4.6e-3),
        row(peer="padded", median=1e-3, extra={"padding_share": 0.587}),
    ]
    write(tmp_path, rows)
    assert one_line(tmp_path) == {
        "kernels": "gelu",
        "case": "tokens 4096, dtype bfloat16",
        "Concord": "2.00 ms (1.80-2.20)",
        "of the limit": "25%",
        "torch": "2.3x",
        "padded": "0.50x",
        "tokens/s": "2,048,000",
        "padding of the peers": "padded 59%",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4e-6, "4.00 us (3.60-4.40)"),
        (2.5e-4, "250 us (225-275)"),
        (1.5e-2, "15.0 ms (13.5-16.5)"),
        (2.0, "2.00 s (1.80-2.20)"),
        (120.0, "120 s (108-132)"),
    ],
)
def test_times_are_in_the_unit_that_is_read_best(tmp_path, seconds, text):
    write(tmp_path, [row(median=seconds)])
    assert one_line(tmp_path)["Concord"] == text


def test_texts_a_second_are_shown_where_tokens_are_not_counted(tmp_path):
    write(tmp_path, [row(extra={"examples_per_second": 1234.4})])
    assert one_line(tmp_path)["examples/s"] == "1,234"
    write(tmp_path, [row(extra={"examples_per_second": 1234.4, "tokens_per_second": 5678.0})])
    assert "examples/s" not in one_line(tmp_path)


def memory_and_counts(gibibytes, count, **more):
    return {"extra": {"peak_bytes": gibibytes * 2**30, "host_synchronisations": count}} | more


def test_peak_memory_is_concords_and_each_peers_over_it_and_host_synchronisations_are_counts(tmp_path):
    rows = [
        row(group="step", **memory_and_counts(1.5, 0)),
        row(group="step", peer="torch", **memory_and_counts(4.5, 16.0)),
        row(group="step", peer="small", **memory_and_counts(0.75, 2.5)),
        row(group="step", peer="silent"),
    ]
    write(tmp_path, rows)
    line = one_line(tmp_path)
    assert line["peak memory"] == "1.50 GiB (torch 3.0x, small 0.50x)"
    assert line["host synchronisations"] == "Concord 0, torch 16, small 2.5"


def test_a_memory_ratio_needs_the_parity_tests_and_a_count_does_not(tmp_path):
    rows = [
        row(group="step", **memory_and_counts(1, 0)),
        row(group="step", peer="torch", **memory_and_counts(3, 4, parity=[MODULE])),
    ]
    write(tmp_path, rows)
    line = one_line(tmp_path)
    assert line["peak memory"] == "1.00 GiB"
    assert line["host synchronisations"] == "Concord 0, torch 4"


def test_the_memory_of_a_kernel_replayed_as_a_graph_is_not_shown(tmp_path):
    write(tmp_path, [row(extra={"peak_bytes": 2**30})])
    assert "peak memory" not in one_line(tmp_path)


def test_a_peers_memory_without_concords_is_not_shown(tmp_path):
    write(tmp_path, [row(group="step"), row(group="step", peer="torch", extra={"peak_bytes": 2**30})])
    assert "peak memory" not in one_line(tmp_path)


def test_columns_that_nothing_is_known_for_are_left_out(tmp_path):
    write(tmp_path, [row()])
    assert list(one_line(tmp_path)) == ["kernels", "case", "Concord"]


def test_a_bar_in_a_cell_does_not_end_it(tmp_path):
    write(tmp_path, [row(name="a | b")])
    assert one_line(tmp_path)["kernels"] == r"a \| b"


@pytest.mark.parametrize(
    ("record", "cell"),
    [
        (PASSED, "2.0x"),
        ({}, "parity not shown"),
        ({"tests/other.py": PASSED[MODULE]}, "parity not shown"),
        ({MODULE: {"passed": 5, "failed": 1, "skipped": 0}}, "parity fails"),
        ({MODULE: {"passed": 0, "failed": 0, "skipped": 6}}, "parity not shown"),
    ],
)
@pytest.mark.parametrize("named_by", ["concord", "torch"])
def test_a_ratio_needs_the_parity_tests_that_either_row_names(tmp_path, record, cell, named_by):
    rows = [row(), row(peer="torch", median=4e-3)]
    rows[named_by == "torch"]["parity"] = [MODULE]
    write(tmp_path, rows, parity=record)
    assert one_line(tmp_path)["torch"] == cell


def test_a_row_that_names_no_parity_tests_needs_none(tmp_path):
    failing = {MODULE: {"passed": 0, "failed": 1, "skipped": 0}}
    write(tmp_path, [row(), row(peer="torch", median=4e-3)], parity=failing)
    assert one_line(tmp_path)["torch"] == "2.0x"


def test_a_section_says_where_its_numbers_come_from(tmp_path):
    write(tmp_path, [row()])
    assert (
        "NVIDIA H200, driver 570.86, python 3.12.1, torch 2.13.0; commit 0123456789, 2026-01-01 12:30 UTC: "
        "`pytest bench/ --benchmark-only`"
    ) in written(tmp_path).splitlines()


def test_numbers_of_changed_source_are_marked(tmp_path):
    write(tmp_path, [row()], commit="0123456789abcdef+changes")
    assert one_line(tmp_path)["kernels"] == "gelu (+changes)"
    assert "commit 0123456789+changes," in written(tmp_path)


def test_the_newest_file_wins_for_each_comparison_and_older_ones_are_named_by_row(tmp_path):
    write(tmp_path, [row(median=1.0), row("norm", median=3.0)], day=1, commit="old")
    write(tmp_path, [row(median=2.0)], day=2, commit="new")
    write(tmp_path, [row(peer="torch", median=9.0)], day=3, commit="without Concord")
    assert [(line["kernels"], line["Concord"]) for line in tables(tmp_path)] == [
        ("gelu [1]", "2.00 s (1.80-2.20)"),
        ("norm [2]", "3.00 s (2.70-3.30)"),
    ]
    text = written(tmp_path)
    assert re.search(r"^\[1\] NVIDIA.*commit new,", text, re.M)
    assert re.search(r"^\[2\] NVIDIA.*commit old,", text, re.M)
    assert "without Concord" not in text


def test_peers_of_one_ratio_come_from_one_file(tmp_path):
    write(tmp_path, [row(median=1.0), row(peer="torch", median=8.0)], day=1)
    write(tmp_path, [row(median=2.0)], day=2)
    assert "torch" not in one_line(tmp_path)


def test_groups_and_cases_come_in_order_whatever_the_order_of_the_rows(tmp_path):
    cases = [("step", 10), ("kernels", 10), ("kernels", 9)]
    write(tmp_path, [row(group=group, case={"tokens": tokens}) for group, tokens in cases])
    cells = [(next(iter(line)), line["case"]) for line in tables(tmp_path)]
    assert cells == [("kernels", "tokens 9"), ("kernels", "tokens 10"), ("step", "tokens 10")]


def test_gpus_come_before_the_cpu(tmp_path):
    write(tmp_path, [row()], device="AMD EPYC")
    assert "Not yet measured on a GPU." in written(tmp_path)
    assert "AMD EPYC, threads 2, python 3.12.1" in written(tmp_path)
    write(tmp_path, [row()], device="NVIDIA H200")
    assert re.findall("^### (.*)$", written(tmp_path), re.M) == ["NVIDIA H200", "AMD EPYC"]
    assert "Not yet measured" not in written(tmp_path)


def step(peer, median, thread, **more):
    case = {"model": "MiniLM", "lengths": "course", "tasks": 3, "batch": 32, "dtype": "fp32"} | more
    extra = {"thread_seconds": {"median": thread}}
    floor = {"floor_seconds": 0.5, "parity": [MODULE]} if peer == "concord" else {}
    return row("training step with PCGrad", peer, median, group="step", case=case, extra=extra, **floor)


def test_the_readme_has_the_steps_at_real_lengths_of_the_newest_device_by_its_thread(tmp_path):
    steps = [step("concord", 2.0, 1.0), step("faithful", 7.0, 6.0), step("concord", 1.0, 1.0, lengths="128")]
    write(tmp_path, steps, device="CPU (Old)")
    write(tmp_path, steps, device="CPU (New, 2 threads)", day=2, parity=PASSED)
    gpu, cpu = headline(newest_comparisons(read_results(tmp_path))).splitlines()[2:]
    assert "not yet measured" in gpu
    cells = [cell.strip() for cell in cpu.strip("|").split("|")]
    assert cells[0] == "CPU, fp32 (New, threads 2)"
    assert cells[2:] == ["1 s", "50%", "6.0 times as long", "not measured"]


def test_the_readme_gives_no_ratio_to_a_peer_whose_parity_is_not_shown(tmp_path):
    write(tmp_path, [step("concord", 2.0, 1.0), step("faithful", 7.0, 6.0)], device="CPU (A)")
    assert "parity not shown" in headline(newest_comparisons(read_results(tmp_path)))


def test_the_rows_of_this_readme_are_those_of_the_results():
    devices = newest_comparisons(read_results(report.ROOT / "bench" / "results"))
    assert f"{BEGIN}\n\n{headline(devices)}\n\n{END}" in (report.ROOT / "README.md").read_text()


def test_an_empty_folder_is_not_yet_measured(tmp_path):
    assert written(tmp_path) == "Not yet measured on a GPU."


def test_the_page_changes_between_its_markers_alone_and_only_once(tmp_path, capsys):
    write(tmp_path / "results", [row()])
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    flags = ["--results", str(tmp_path / "results"), "--page", str(page), "--readme", str(readme)]
    assert run_command(main, flags) == 0
    first = page.read_text()
    assert first.startswith(f"# Before\n\n{BEGIN}\n")
    assert first.endswith(f"\n{END}\n\nAfter\n")
    assert "2.00 ms" in first
    assert "old" not in first
    assert run_command(main, flags) == 0
    assert page.read_text() == first
    assert readme.read_text() == f"# Before\n\n{BEGIN}\n\n{headline({})}\n\n{END}\n\nAfter\n"
    assert str(page) in capsys.readouterr().out.split()


@pytest.mark.parametrize("text", ["nothing", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_page_without_its_markers_is_left_alone_and_named(tmp_path, text, capsys):
    write(tmp_path, [row()])
    page = tmp_path / "performance.md"
    page.write_text(text)
    assert run_command(main, ["--results", str(tmp_path), "--page", str(page)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{page}: no place for the results" in line
    assert page.read_text() == text


def without(content, name):
    return {key: value for key, value in content.items() if key != name}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"rows": [without(row(), "seconds")]}, "row 1: 'seconds' is missing"),
        ({"rows": [row(), row(peer="torch", seconds={"median": 1, "p20": 1})]}, "row 2: seconds: 'p80' is missing"),
        ({"rows": [row(median=0.0)]}, "row 1: seconds: 'median' is 0.0, expected a finite time above 0"),
        ({"rows": [row(floor_seconds=float("nan"))]}, "row 1: 'floor_seconds' is nan"),
        ({"rows": [row(group="kernel")]}, "did you mean 'kernels'?"),
        ({"rows": [row(extra={"padding_share": "half"})]}, "row 1: extra: 'padding_share' is str"),
        ({"rows": [row(extra={"peak_bytes": "1 GiB"})]}, "row 1: extra: 'peak_bytes' is str"),
        ({"rows": [row(extra={"examples_per_second": "many"})]}, "row 1: extra: 'examples_per_second' is str"),
        ({"rows": [row(extra={"host_synchronisations": []})]}, "row 1: extra: 'host_synchronisations' is list"),
        ({"rows": [row(), row()]}, "rows 1 and 2 measure the same"),
        ({"rows": {}}, "'rows' is dict, expected list"),
        ({"date": "yesterday"}, "'date' is 'yesterday'"),
        ({"parity": {MODULE: {"passed": 1}}}, f"parity of {MODULE}: 'failed' is missing"),
    ],
)
def test_a_malformed_file_is_named_with_what_is_wrong(tmp_path, more, complaint):
    path = write(tmp_path, **({"rows": [row()]} | more))
    with pytest.raises(InputError) as caught:
        read_results(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["date", "commit", "command", "device", "versions", "parity", "rows"])
def test_each_part_of_a_file_is_asked_for(tmp_path, name):
    path = write(tmp_path, [row()])
    path.write_text(json.dumps(without(json.loads(path.read_text()), name)))
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: '{name}' is missing"):
        read_results(tmp_path)


def test_a_device_without_a_name_is_asked_for_it(tmp_path):
    path = write(tmp_path, [row()])
    path.write_text(json.dumps(json.loads(path.read_text()) | {"device": {}}))
    with pytest.raises(InputError, match="device: 'device' is missing"):
        read_results(tmp_path)


@pytest.mark.parametrize("content", [b'{"date": ', b"\xff\xfe\x00"])
def test_a_file_that_is_not_json_ends_the_command_in_one_line(tmp_path, content, capsys):
    path = tmp_path / "20260101-000000-cpu.json"
    path.write_bytes(content)
    assert run_command(main, ["--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: not JSON" in line


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="elsewhere: no such folder"):
        read_results(tmp_path / "elsewhere")


@pytest.fixture
def repository(tmp_path):
    """A git repository whose only commit holds results/ with gelu at 4 ms; returns the folder results/."""
    folder = tmp_path / "results"
    write(folder, [row(median=4e-3), row("gone", median=1.0)], day=1)
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "results"]):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    return folder


def test_compare_prints_before_after_and_ratio_of_what_both_have(repository, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    next(repository.glob("*.json")).unlink()
    write(repository, [row(median=2e-3), row("new")], day=2, commit="abc+changes")
    write(repository, [row(median=1.0)], device="NVIDIA A100")
    assert run_command(main, ["--results", str(repository), "--compare", "HEAD"]) == 0
    output = capsys.readouterr().out
    (line,) = (line for line in output.splitlines() if "gelu" in line)
    cells = [cell.strip() for cell in re.split("[│|]", line) if cell.strip()]
    assert cells == ["NVIDIA H200", "gelu", "tokens 4096, dtype bfloat16", "4.00 ms", "2.00 ms +changes", "2.0x"]
    assert "gone" not in output
    assert "new" not in output
    assert "A100" not in output
    assert not list(repository.glob("*.png"))


def test_compare_says_when_nothing_was_measured_both_times(repository, capsys):
    next(repository.glob("*.json")).unlink()
    assert run_command(main, ["--results", str(repository), "--compare", "HEAD"]) == 0
    assert "no comparison was measured both at HEAD and now" in capsys.readouterr().out


def test_compare_with_a_revision_or_a_folder_that_git_does_not_know_ends_in_one_line(repository, tmp_path, capsys):
    for folder, revision in ((repository, "no-such-branch"), (repository, "")):
        assert run_command(main, ["--results", str(folder), "--compare", revision]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"--compare {revision}: git" in line


def test_compare_names_a_committed_file_that_is_malformed(repository, tmp_path, capsys):
    (path,) = repository.glob("*.json")
    good = path.read_text()
    path.write_text("{}")
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, "commit", "-q", "-a", "-m", "broken"], check=True)
    path.write_text(good)
    assert run_command(main, ["--results", str(repository), "--compare", "HEAD"]) == 2
    assert f"HEAD:{path.name}: 'commit' is missing" in capsys.readouterr().err
