"""The benchmarks have one shape, and RESULTS.md is what they wrote."""

import argparse
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
RESULTS = (FOLDER / "RESULTS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def modules():
    """The scripts as modules, by name; they import one another as they do when run."""
    names = [path.stem for path in FOLDER.glob("*.py")]
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture
def record(modules):
    return modules["_record"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_the_same_shape(modules, name, capsys):
    module = modules[name]
    bench = module.BENCHMARK
    assert re.match(r"Claims?: ", module.__doc__)
    assert Path(bench.file) == FOLDER / f"{name}.py"
    assert bench.title == module.TITLE
    assert bench.parts == module.PARTS and all(map(callable, module.PARTS.values()))
    assert bench.why.keys() <= module.PARTS.keys(), "a remark stands beside a goal of its part"
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--results" in shown and all(part in shown for part in module.PARTS)


def test_results_have_a_section_for_each_script_and_no_other(modules, record):
    assert re.findall(r"<!-- (\w+) -->", RESULTS) == SCRIPTS
    assert re.findall(r"<!-- end of (\w+) -->", RESULTS) == SCRIPTS
    parts = [f"{name}: {part}" for name in SCRIPTS for part in modules[name].PARTS]
    assert re.findall(r"<!-- (\w+: \w+) -->", RESULTS) == parts
    assert RESULTS.startswith(record.START)
    for part in parts:
        first = "\n".join(record.between(RESULTS, part).splitlines()[:2])
        assert re.search(r"^20\d\d-\d\d-\d\d; ", first, re.MULTILINE), f"{part} has no date"


def test_a_run_replaces_what_it_measured_and_nothing_else(record, tmp_path, capsys):
    def one(page, options):
        page.table("a", "b")
        page.row(options.value, page.verdict(options.value > 1))

    file, results = FOLDER / "greedy.py", tmp_path / "RESULTS.md"
    results.write_text(RESULTS, encoding="utf-8")
    bench = record.Benchmark(str(file), "Greedy soups", {"networks": one}, {"networks": "Because."})
    options = argparse.Namespace(rows=["networks"], results=results, value=1)
    bench.run(options, ["--value", "1"])
    text = results.read_text(encoding="utf-8")
    part = record.between(text, "greedy: networks")
    assert "| 1 | **no** |" in part and "Because." in part, "a missed goal is explained"
    assert "`python benchmarks/greedy.py --value 1`" in part and "load " in part
    old = record.between(RESULTS, "greedy: networks")
    assert text.replace(part, old) == RESULTS
    options.value = 2
    bench.run(options, [])
    part = record.between(results.read_text(encoding="utf-8"), "greedy: networks")
    assert "| 2 | yes |" in part and "Because." not in part
    assert "| 2 | yes |" in capsys.readouterr().out, "rows are printed as they come"


@pytest.mark.parametrize(
    ("theirs", "ours", "goal", "cells"),
    [
        ([4, 6, 8], [1, 2, 3], 3, "6 (4 to 8) | 2 (1 to 3) | 3x | 4x | >= 3x | yes | - |"),
        ([2, 6, 8], [1, 2, 3], 3, "6 (2 to 8) | 2 (1 to 3) | 3x | 2x | >= 3x | **no** | - |"),
        ([2], [3], -1.5, "2 (2 to 2) | 3 (3 to 3) | 1.50 of it | 1.50 of it | at most 1.5 times"),
    ],
)
def test_rows_of_ratios(record, theirs, ours, goal, cells):
    page = record.Page()
    page.compare("what", theirs, ours, goal=goal)
    assert page.lines[0].startswith(f"| what | {cells}")
    assert page.missed == ("**no**" in cells)


def test_a_missing_peer_is_a_row(modules, monkeypatch, tmp_path):
    monkeypatch.setattr(modules["_peers"], "FOLDER", tmp_path)
    page = modules["_record"].Page()
    modules["merging_agreement"].agree(page, argparse.Namespace())
    assert page.lines == ["mergekit: not measured: its environment is missing (`make peers`)."]
    page = modules["_record"].Page()
    modules["spectral"].compare(page, "a fit", 2, (None, "fit"), (None, "fit"))
    assert page.lines[0].startswith("| a fit | not measured")


def test_exponents_are_those_of_least_squares(modules):
    exponent = modules["cost"].exponent
    sizes = np.array([4, 8, 16, 32, 64, 128])
    assert exponent(sizes, 3 * sizes**1.5) == pytest.approx((1.5, 0), abs=1e-12)
    noisy = sizes**2.0 * np.exp(0.1 * np.random.default_rng(0).normal(size=6))
    expected = scipy.stats.linregress(np.log(sizes), np.log(noisy))
    assert exponent(sizes, noisy) == pytest.approx((expected.slope, expected.stderr))
    slope, error = exponent([1, 2], [1, 8])
    assert slope == pytest.approx(3) and np.isnan(error)
    assert np.isnan(exponent([1], [1])).all()


def test_memory_is_seen(modules):
    cost, peak = modules["cost"], []
    start = cost.status("RssAnon")
    with cost.watched(peak):
        for _ in range(3):
            np.ones(2**24).sum()  # 128 MiB, freed at once
    assert 100 < peak[0] - start < 160
    assert cost.status("RssAnon") - start < 64


def run_quick(tmp_path, *arguments):
    before = {path: path.read_bytes() for path in FOLDER.glob("*.[mp][dn]*")}
    results = tmp_path / "RESULTS.md"
    command = [sys.executable, "cost.py", "--quick", *arguments]
    command += ["--results", str(results)]
    subprocess.run(command, cwd=FOLDER, capture_output=True, check=True, timeout=300)
    assert {path: path.read_bytes() for path in FOLDER.glob("*.[mp][dn]*")} == before
    return results.read_text(encoding="utf-8")


def test_cost_comes_through_quickly(tmp_path):
    text = run_quick(tmp_path, "--rows", "table", "many")
    assert re.findall(r"<!-- (\w+: \w+) -->", text) == ["cost: table", "cost: many"]
    assert re.search(r"\| time \| -?\d\.\d\d ± \d\.\d\d \|", text)
