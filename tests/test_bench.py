import json
from dataclasses import asdict, replace

import numpy as np
import pytest

import fastdl
from bench import __main__ as bench
from bench import benches, report
from bench.functional import gradient_of, normal
from bench.harness import (
    MIN_ROUNDS,
    Bench,
    Call,
    Machine,
    Row,
    burst,
    measure,
    time_in_turn,
    verify,
    work_of,
)
from tests.cuda import device, has_cuda, on_device
from tests.testing import num_threads

FLOAT32 = np.dtype(np.float32)


def returning(*values: float) -> Call:
    return Call(lambda: [np.array(values, np.float32)])


def test_wrong_results_are_not_timed():
    expected = [np.ones(3)]
    verify(returning(1, 1, 1 + 1e-6), expected, "float32")
    for wrong in (returning(1, 1, 1.001), returning(1, 1, np.nan)):
        with pytest.raises(AssertionError, match=r"error (nan|0\.001)"):
            verify(wrong, expected, "float32")


def test_contenders_alternate():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = time_in_turn(runs, seconds=0)
    assert calls == ["a", "b"] * MIN_ROUNDS
    assert [len(t) for t in times.values()] == [MIN_ROUNDS, MIN_ROUNDS]


def test_the_first_of_several_runs_is_dropped():
    calls = []
    assert len(burst(lambda: calls.append(0), seconds=0.001)) == len(calls) - 1


def test_work_is_summed_over_there_and_back_and_scratch_memory_is_counted():
    x, weight = normal((4, 8, 20, 20), FLOAT32, 0), normal((8, 8, 3, 3), FLOAT32, 1)
    forward = work_of(Call(lambda: fastdl.conv2d(x, weight)))

    def both():
        y, pullback = fastdl.vjp(fastdl.conv2d, x, weight)
        return [y, *pullback(gradient_of(y, FLOAT32))]

    assert forward.flops == pytest.approx(2 * 4 * 8 * 18 * 18 * 8 * 9, rel=0.01)
    assert work_of(Call(both)).flops == pytest.approx(3 * forward.flops, rel=0.01)
    assert work_of(Call(lambda: fastdl.relu(x))).extra_mb == 0  # the result itself does not count
    assert work_of(Call(lambda: fastdl.relu(fastdl.relu(x)))).extra_mb >= x.nbytes / 1e6


def test_every_op_has_a_bench():
    core = [b for b in benches() if b.suite == "core"]
    assert {*fastdl.differentiable_ops(), "adam", "sgd"} == {b.op for b in core}
    cases = [(b.op, case.name) for b in benches() for case in b.cases]
    assert len(set(cases)) == len(cases)
    assert all(any(case.smoke for case in b.cases) for b in core)


def run(monkeypatch, arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments.split()])
    monkeypatch.setitem(bench.SECONDS, "smoke", 0.0)
    with num_threads(1):  # sets it back to what it was
        bench.main()


def test_command(monkeypatch, tmp_path, capsys):
    file = tmp_path / "rows.json"
    run(
        monkeypatch,
        f"--suite smoke --op adaptive_avg_pool2d --vs numpy --threads 1 --json {file}",
    )
    table = capsys.readouterr().out
    assert "| op | case | direction | dtype | best peer | fastdl ms (p20-p80)" in table
    assert table.count("| adaptive_avg_pool2d | (16, 512, 7, 7) to 1 |") == 2  # and backward
    rows = [Row(**row) for row in json.loads(file.read_text())]
    assert [row.provider for row in rows] == ["fastdl", "numpy"] * 2
    assert all(row.ms_p20 <= row.ms_median <= row.ms_p80 for row in rows)
    assert rows[0].roofline_share == pytest.approx(
        max(rows[0].gflops / rows[0].peak_gflops, rows[0].gbps / rows[0].peak_gbps)
    )

    run(monkeypatch, f"--from {file} --markdown {tmp_path / 'again.md'}")
    assert (tmp_path / "again.md").read_text() == table.rstrip("\n") + "\n"
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin core -->\nold\n<!-- end core -->\nafter\n")
    report.write(f"{page}#core", "new\n")
    assert page.read_text() == "before\n<!-- begin core -->\nnew\n<!-- end core -->\nafter\n"
    with pytest.raises(ValueError, match="has no <!-- begin train -->"):
        report.write(f"{page}#train", "new\n")


def test_the_second_pass_has_rows_of_its_own(monkeypatch, tmp_path, torch):
    file = tmp_path / "rows.json"
    run(monkeypatch, f"--suite smoke --op nll_loss --case 64 --vs torch --json {file}")
    rows = [Row(**row) for row in json.loads(file.read_text())]
    assert [row.provider for row in rows] == [
        "fastdl", "torch", "fastdl-no-faults", "torch-no-faults",
    ] * 2  # fmt: skip


def row(provider: str, ms: float) -> Row:
    return Row(
        "relu", "1M", "activations", "forward", "float32", provider, ms, ms, ms, 1, 1, 0.5, 0, 2,
        "avx512", "cpu", "commit", "2026-01-31", 100, 50,
    )  # fmt: skip


def test_ratios_are_taken_within_a_pass():
    rows = [row("fastdl", 1), row("torch", 3), row("numpy", 0.5), row("fastdl-no-faults", 0.5)]
    (result,) = report.results_of([*rows, row("torch-no-faults", 1)])
    assert result.against_torch() == 3
    assert (result.best_peer(), result.against_best()) == ("torch-no-faults", 2)


def test_contenders_that_cannot_run_a_network_are_named(torch):
    (gpt,) = [b for b in benches() if b.op == "GPT training"]
    machine = Machine(2, "avx512", "cpu", "commit", "2026-01-31", 100, 50)

    class Small(Bench):
        """The network's name, for a call that takes no time."""

        op, normwise = gpt.op, None

        def make(self, provider, case, direction, dtype):
            if provider == "torch-channels-last":
                return gpt.make(provider, case, direction, dtype)
            if provider == "torch-compile":
                raise RuntimeError("no compiler")
            return None if provider == "jax" else returning(1)

    providers = ["torch", "torch-channels-last", "torch-compile", "jax"]
    done = measure(Small(), gpt.cases[0], "step", "float32", providers, 0, machine)
    assert [row.provider for row in done.rows] == ["fastdl", *providers[:3]]
    assert [row.left_out for row in done.rows] == [None, None, "no images", "RuntimeError"]
    assert len(done.failures) == 1
    again = [Row(**row) for row in json.loads(json.dumps([asdict(row) for row in done.rows]))]
    text = report.markdown(again)
    assert "| network | input | fastdl ms | torch ms | torch / fastdl | target |" in text
    assert text.count("| 1.2 ") == 1
    assert "- torch-channels-last without GPT training: no images\n" in text
    assert "- torch-compile without GPT training: RuntimeError\n" in text


@pytest.mark.skipif(not has_cuda(), reason="no GPU and no emulator")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cases_of_a_device_cuda(dtype):
    for bench_there in benches("cuda"):
        here = replace(bench_there, where=device())
        (case, *_) = (case for case in here.cases if case.smoke)
        for direction in here.directions:
            of = (case, direction, np.dtype(dtype))
            expected = here.make(here.oracle, *of).run()
            for provider in {"fastdl", "torch"} - set(here.unverified):
                with on_device():
                    call = here.make(provider, *of)
                    verify(call, expected, dtype, here.normwise)
                assert call.flops + call.bytes > 0


@pytest.mark.skipif(has_cuda(), reason="there is a device")
def test_a_bench_of_a_device_needs_one(monkeypatch, torch):
    with pytest.raises(SystemExit, match=r"without CUDA kernels|no CUDA device"):
        run(monkeypatch, "--device cuda --suite smoke --op softmax")


@pytest.mark.parametrize(
    "arguments", ["--op softmax,convolution", "--vs tensorflow", "--dtype int8"]
)
def test_unknown_names_are_refused(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, arguments)
    assert "unknown: " in capsys.readouterr().err
