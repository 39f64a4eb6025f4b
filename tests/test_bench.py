import json

import numpy as np
import pytest

import fastdl
from bench import __main__ as bench
from bench.harness import MIN_RUNS, Row, time_in_turn, verify
from tests.testing import num_threads

FLOAT32 = np.dtype(np.float32)


def test_wrong_results_are_not_timed():
    expected = [np.ones(3)]
    verify("right", [np.ones(3, np.float32) * np.float32(1 + 1e-6)], expected, FLOAT32)
    for wrong in ([1.0, 1.0, 1.001], [1.0, 1.0, np.nan]):
        with pytest.raises(AssertionError, match="softmax: error"):
            verify("softmax", [np.array(wrong, np.float32)], expected, FLOAT32)


def test_contenders_alternate():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = time_in_turn(runs, seconds=0)
    assert calls == ["a", "b"] * MIN_RUNS
    assert [len(t) for t in times.values()] == [MIN_RUNS, MIN_RUNS]


def test_every_op_has_a_bench():
    assert {*fastdl.differentiable_ops(), "adam", "sgd"} == {b.op for b in bench.benches()}
    cases = [(b.op, case.name) for b in bench.benches() for case in b.cases]
    assert len(set(cases)) == len(cases)
    assert all(any(case.smoke for case in b.cases) for b in bench.benches())


def test_command(monkeypatch, tmp_path, capsys):
    file = tmp_path / "rows.json"
    arguments = f"--suite smoke --op adaptive_avg_pool2d --vs numpy --threads 1 --json {file}"
    monkeypatch.setattr("sys.argv", ["bench", *arguments.split()])
    monkeypatch.setitem(bench.SECONDS, "smoke", 0.0)
    with num_threads(1):  # sets it back to what it was
        bench.main()
    table = capsys.readouterr().out
    assert "| op | case | direction | dtype | fastdl ms (p20-p80) | GFLOP/s" in table
    assert table.count("| adaptive_avg_pool2d | (16, 512, 7, 7) to 1 |") == 2  # and backward
    rows = [Row(**row) for row in json.loads(file.read_text())]
    assert [row.provider for row in rows] == ["fastdl", "numpy"] * 2
    assert all(row.ms_p20 <= row.ms_median <= row.ms_p80 for row in rows)


def test_unknown_names_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "--op", "softmax,convolution"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "unknown: convolution; choose from" in capsys.readouterr().err
