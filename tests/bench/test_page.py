"""Tests of packaging/doc/performance.md: its data, its text and its chart (pytest tests/bench).

A page that hides a loss, compares with the wrong server, or differs from its data would be worse than none.
"""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree

import chart
import page_data
import page_files
import page_text
import pytest
import workloads
from page_data import Ratio, Row

SVG = "{http://www.w3.org/2000/svg}"


def figures(rate, cost, **others):
    """Returns the figures of a server in the rounds of a row about requests."""
    return {"requests_per_s": rate, "cpu_us_per_request": cost, **others}


def row(servers, label="hello", reference="limit"):
    """Returns a row with these servers."""
    return Row("hello", label, "WSGI hello, one worker", "", "rgun", reference, servers)


def data(*rows):
    """Returns the data of a page with these rows."""
    machine = {"cpu": "Z80", "cpus": 2, "kernel": "6.1.2", "build": "optimized", "load_before": 0.25}
    versions = {"python": "3.13.0", "rgun": "1.2.3", "granian": "4.5"}
    run = {"when": "2026-11-29T10:00:00Z", "rounds": 3, "seconds": 1.0, "machine": machine}
    return {**run, "versions": versions, "skipped": {}, "rows": list(rows)}


BEHIND = {"rgun": figures([80, 80], [12, 12]), "weft": figures([100, 100], [10, 10])}
AHEAD = {"rgun": figures([300, 300], [4, 4]), "weft": figures([100, 100], [10, 10])}


def test_page_and_chart_agree_with_their_data():
    files = page_files.generate(page_data.read())
    assert set(files) == {page_files.PAGE, page_files.CHART}
    assert page_files.stale(files) == [], "run tests/bench/page"


def test_edited_or_missing_file_is_stale(tmp_path):
    files = {tmp_path / name: "content\n" for name in ("same", "edited", "missing")}
    (tmp_path / "same").write_text("content\n")
    (tmp_path / "edited").write_text("content \n")
    assert page_files.stale(files) == [tmp_path / "edited", tmp_path / "missing"]


def test_check_of_the_page_passes_and_writes_nothing():
    program = page_files.ROOT / "tests" / "bench" / "page"
    run = subprocess.run([sys.executable, program, "--check"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


def test_committed_data_name_neither_host_nor_path():
    content = page_data.DATA.read_text()
    assert not page_data.A_PATH.search(content)
    machine = json.loads(content)["machine"]
    assert set(machine) == set(page_data.MACHINE)
    assert re.fullmatch(r"[\d.]+", machine["kernel"])


def test_committed_data_have_all_rows_of_the_page():
    wanted = {name for name, workload in workloads.WORKLOADS.items() if workload.page}
    assert {found.workload for found in page_data.read()["rows"]} == wanted


def test_ratio_above_one_is_better_in_both_figures():
    found = row({"rgun": figures([30, 30], [4, 4]), "weft": figures([20, 20], [8, 8])})
    assert found.best("requests_per_s") == Ratio("weft", 1.5, 0)
    assert found.best("cpu_us_per_request") == Ratio("weft", 2, 0)


def test_ratio_is_the_median_of_the_rounds_with_half_their_range():
    # A drift that affects both servers in the same round changes no ratio.
    found = row({"rgun": figures([10, 20, 40], [1, 1, 1]), "weft": figures([10, 10, 40], [1, 1, 1])})
    assert found.ratio("requests_per_s", "weft") == Ratio("weft", 1, 0.5)


def test_best_rival_is_neither_reference_nor_invalid():
    servers = {
        "limit": figures([900], [1]),
        "rgun": figures([100], [10]),
        "weft": figures([200], [9]),
        "granian": figures([50], [5]),
        "bjoern": {"invalid": "round 1: wrk counted errors: 3 status"},
    }
    found = row(servers)
    assert found.best("requests_per_s").rival == "weft"
    assert found.best("cpu_us_per_request").rival == "granian"
    assert found.ratio("requests_per_s", "bjoern") is None
    assert found.ratio("requests_per_s", "limit").median == pytest.approx(1 / 9)


def test_difference_within_the_spread_is_level():
    assert Ratio("weft", 0.97, 0.05).verdict == "level"
    assert Ratio("weft", 0.9, 0.05).verdict == "behind"
    assert Ratio("weft", 1.1, 0.05).verdict == "ahead"


def test_losses_are_listed_with_the_largest_first():
    small = {"rgun": figures([99, 99], [9, 9]), "weft": figures([100, 100], [10, 10])}
    text = page_text.losses([row(small, "small"), row(AHEAD, "ahead"), row(BEHIND, "large")])
    assert re.findall(r"^\| (\w+) \| (\S+)", text, re.M)[1:] == [
        ("large", "requests/s"),
        ("large", "CPU"),
        ("small", "requests/s"),
    ]
    assert "ahead |" not in text
    assert page_text.losses([row(AHEAD)]) == "In no row of this run.\n"


def test_page_shows_losses_before_everything_else():
    text = page_text.page(data(row(BEHIND)))
    assert text.index("## Where rgun is behind") < text.index("## All rows") < text.index("## Each row")
    assert "**0.80 ± 0.00** weft" in text
    assert "| rgun | 1.2.3, built by `make optimized`, as packages are |" in text
    assert "| granian | 4.5 |" in text


def test_build_for_development_is_named_as_slower():
    made = data(row(BEHIND))
    made["machine"]["build"] = "fast"
    assert "1.2.3, a build for development (`PROFILE=fast`): slower" in page_text.page(made)


def test_row_with_one_disturbed_round_is_marked():
    quiet = {**BEHIND, "rgun": figures([80, 80], [12, 12], foreign_busy=[0.02, 0.03], stolen=[0, 0])}
    busy = {**BEHIND, "rgun": figures([80, 80], [12, 12], foreign_busy=[0.02, 0.6], stolen=[0, 0])}
    stolen = {**BEHIND, "weft": figures([100, 100], [10, 10], stolen=[0.2, 0])}
    assert "†" not in page_text.overview([row(quiet)]) + page_text.details(row(quiet))
    assert "| hello † |" in page_text.overview([row(busy)])
    assert page_text.warning([row(quiet)]) == ""
    assert page_text.warning([row(quiet), row(busy)]).startswith(
        "**1 of 2 rows of this run were disturbed (†)"
    )
    assert "other processes up to 60 % of a core" in page_text.details(row(busy))
    assert "the hypervisor up to 20 % of a core" in page_text.details(row(stolen))


def test_invalid_server_and_saturated_client_are_shown():
    servers = {
        "rgun": figures([80, 80], [12, 12], client_busy=[0.99, 0.99]),
        "weft": {"invalid": "round 2: timed out"},
    }
    text = page_text.details(row(servers))
    assert "| weft | did not complete |" in text
    assert "| rgun \\* |" in text


def test_memory_row_has_one_figure():
    servers = {"rgun": {"connection_kib": [10, 10]}, "bjoern": {"connection_kib": [2, 2]}}
    text = page_text.page(data(row(servers, "memory of a connection", reference="")))
    assert "| memory of a connection | **0.20 ± 0.00** bjoern |" in text
    assert "| memory of a connection | memory | bjoern | 0.20 ± 0.00 | behind |" in text


def test_selected_data_drop_paths_and_survive_writing(tmp_path):
    rounds = [{"requests_per_s": 12345.678, "cpu_us_per_request": 5.0, "p50_ms": 1.0, "foreign_busy": 0.0}]
    result = {
        "when": "2026-11-29T10:00:00Z",
        "rounds": 1,
        "seconds": 1.0,
        "machine": {
            **{
                "cpu": "Z80",
                "cpus": 2,
                "kernel": "6.18.4-host7",
                "build": "fast",
                "load_before": (1.234, 0, 0),
            },
            **{"versions": {"rgun": "1"}, "server_core": 0},
        },
        "skipped": {"weft": "no such file /home/me/weft: see /tmp"},
        "workloads": {
            "hello": {
                "rgun": {"rounds": rounds, "invalid": "", "summary": {}},
                "weft": {"rounds": [], "invalid": "round 1: /srv/venv/bin/weft failed"},
            },
            "upload": {"rgun": {"rounds": [], "invalid": "not on the page"}},
        },
    }
    selected = page_data.select(result, workloads.WORKLOADS)
    content = page_data.text(selected)
    assert '"requests_per_s": [12346.0]' in content
    assert not page_data.A_PATH.search(content)
    (tmp_path / "data.json").write_text(content)
    found = page_data.read(tmp_path / "data.json")
    assert found["machine"] == {**selected["machine"], "kernel": "6.18.4", "load_before": 1.23}
    assert [made.workload for made in found["rows"]] == ["hello"]
    assert set(found["rows"][0].valid) == {"rgun"}


def test_chart_is_well_formed_and_described():
    drawing = xml.etree.ElementTree.fromstring(chart.draw([row(BEHIND, "a < b"), row(AHEAD, "c & d")]))
    assert drawing.get("role") == "img"
    assert drawing.get("aria-labelledby").split() == [
        drawing.find(f"{SVG}{name}").get("id") for name in ("title", "desc")
    ]
    described = drawing.find(f"{SVG}desc").text
    assert "a < b: CPU 0.83 against weft, requests per second 0.80 against weft" in described
    assert described.index("a < b") < described.index("c & d")
    assert "prefers-color-scheme: dark" in drawing.find(f"{SVG}style").text


def test_chart_marks_losses_left_of_one_and_within_the_plot():
    axis = chart.Axis([0.8, 20.0])
    assert chart.LEFT <= axis.at(0.001) <= axis.at(0.8) < axis.at(1) < axis.at(20) <= chart.RIGHT
    drawing = xml.etree.ElementTree.fromstring(chart.draw([row(BEHIND), row(AHEAD)]))
    behind, ahead = (float(mark.get("cx")) for mark in drawing.iter(f"{SVG}circle"))
    one = chart.Axis([0.8, 0.83, 2.5, 3]).at(1)
    assert behind < one < ahead
    whiskers = {
        line.get("y1") for line in drawing.iter(f"{SVG}line") if line.get("class") in ("ahead", "behind")
    }
    assert {mark.get("cy") for mark in drawing.iter(f"{SVG}circle")} <= whiskers
    assert [mark.get("class") for mark in drawing.iter(f"{SVG}circle")] == ["behind", "ahead"]


def test_rows_of_the_page_have_figures_and_servers():
    for workload in workloads.WORKLOADS.values():
        if workload.page:
            assert set(workload.columns) & set(page_data.COSTS)
            assert workload.subject in workload.servers
            assert workload.reference in ("", *workload.servers)
            assert len(workload.page) <= 36, "longer labels reach into the chart"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "x.json"], "--json FILE is for --page"),
        (["--page", "--only", "hello"], "name another file with --json FILE"),
    ],
)
def test_data_of_the_page_are_not_replaced_by_a_part(arguments, message):
    program = page_files.ROOT / "tests" / "bench" / "run"
    run = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert message in run.stderr
