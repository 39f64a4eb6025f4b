"""Markdown tables of rows: a summary by family, against its targets, and every case."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench import benches
from bench.harness import Family, Row
from bench.peers import LIBRARIES, NO_FAULTS


@dataclass(frozen=True)
class Result:
    """The rows of one case, and what follows from them."""

    rows: dict[str, Row]  # by provider
    left_out: dict[str, str]  # providers that could not run it, and why

    @property
    def fastdl(self) -> Row:
        return self.rows["fastdl"]

    def ratio(self, provider: str) -> float:
        """Its time divided by that of fastdl in the same pass."""
        same_pass = "fastdl" + (NO_FAULTS if provider.endswith(NO_FAULTS) else "")
        return self.rows[provider].ms_median / self.rows[same_pass].ms_median

    def against(self, provider: str) -> float | None:
        return self.ratio(provider) if provider in self.rows else None

    def against_torch(self) -> float | None:
        return self.against("torch")

    def best_peer(self) -> str | None:
        """The fastest in either pass; the reference in NumPy is no peer."""
        peers = [p for p in self.rows if not p.startswith("fastdl") and p != "numpy"]
        return min(peers, key=self.ratio, default=None)

    def against_best(self) -> float | None:
        best = self.best_peer()
        return self.ratio(best) if best else None


def results_of(rows: Iterable[Row]) -> list[Result]:
    grouped: dict[tuple[object, ...], Result] = defaultdict(lambda: Result({}, {}))
    for row in rows:
        result = grouped[row.op, row.case, row.direction, row.dtype, row.threads]
        if row.left_out is None:
            result.rows[row.provider] = row
        else:
            result.left_out[row.provider] = row.left_out
    return list(grouped.values())


def geometric_mean(ratios: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def digits(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], text_columns: int) -> str:
    rule = ["---"] * text_columns + ["---:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def mean_worst_target(ratios: Sequence[float | None], target: float | None) -> list[str]:
    """Cells of a summary; a target that the mean reaches is marked so."""
    known = [r for r in ratios if r is not None]
    if not known:
        return ["", "", ""]
    mean = geometric_mean(known)
    wanted = "" if target is None else f"{target:g} {'✓' if mean >= target else '✗'}"
    return [f"{mean:.2f}", f"{min(known):.2f}", wanted]


def known_families() -> dict[str, Family]:
    known = [*benches(), *benches("cuda")]
    return {case.family.name: case.family for bench in known for case in bench.cases}


def summary(results: Sequence[Result]) -> str:
    families = known_families()
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.fastdl.family, result.fastdl.direction].append(result)
    head = ["family", "direction", "cases"]
    for peer in ("torch", "best peer"):
        head += [f"{peer} / fastdl", "worst", "target"]
    lines = []
    for (name, direction), group in sorted(groups.items()):
        family = families.get(name, Family(name, {}))
        lines.append([name, direction, *summary_cells(group, family.targets.get(direction))])
    lines.append(["**all**", "", *summary_cells(results, (3.0, 1.5))])
    return table(head, lines, text_columns=2)


def summary_cells(
    group: Sequence[Result], targets: tuple[float | None, float | None] | None
) -> list[str]:
    of_torch, of_best = targets or (None, None)
    return [
        str(len(group)),
        *mean_worst_target([r.against_torch() for r in group], of_torch),
        *mean_worst_target([r.against_best() for r in group], of_best),
    ]


def networks(results: Sequence[Result]) -> str:
    """Every contender's milliseconds, and who could not run what."""
    providers = list(dict.fromkeys(p for r in results for p in r.rows))
    shown = [p for p in providers if p != "numpy" and not p.endswith(NO_FAULTS)]
    families = known_families()
    head = ["network", "input", *(f"{p} ms" for p in shown)]
    head += ["torch / fastdl", "target", "torch-compile / fastdl", "best peer", "best / fastdl"]
    lines = []
    for result in results:
        one = result.fastdl
        family = families.get(one.family, Family(one.family, {}))
        target, _ = family.targets.get(one.direction, (None, None))
        *_, mark = mean_worst_target([result.against_torch()], target)
        times = [digits(result.rows[p].ms_median) if p in result.rows else "-" for p in shown]
        ratios = [digits(result.against_torch()), mark, digits(result.against("torch-compile"))]
        best = [result.best_peer() or "", digits(result.against_best())]
        lines.append([one.op, one.case, *times, *ratios, *best])
    return "\n\n".join(filter(None, [table(head, lines, text_columns=2), absentees(results)]))


def absentees(results: Sequence[Result]) -> str:
    """Lines of those that could not run some networks, and why."""
    missed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        for provider, reason in result.left_out.items():
            missed[provider, reason].append(result.fastdl.op)
    return "\n".join(
        f"- {provider} without {', '.join(ops)}: {reason}"
        for (provider, reason), ops in missed.items()
    )


def all_cases(results: Sequence[Result]) -> str:
    head = ["op", "case", "direction", "dtype", "best peer", "fastdl ms (p20-p80)", "GFLOP/s"]
    head += ["GB/s", "of roofline", "extra MB", "torch ms", "torch / fastdl", "best / fastdl"]
    lines = []
    for result in results:
        fast, best = result.fastdl, result.best_peer()
        torch = result.rows.get("torch")
        lines.append(
            [
                fast.op,
                fast.case,
                fast.direction,
                fast.dtype,
                best or "",
                f"{digits(fast.ms_median)} ({digits(fast.ms_p20)}-{digits(fast.ms_p80)})",
                digits(fast.gflops),
                digits(fast.gbps),
                f"{fast.roofline_share:.0%}",
                digits(fast.extra_mb),
                digits(torch and torch.ms_median),
                digits(result.against_torch()),
                digits(result.against_best()),
            ]
        )
    return table(head, lines, text_columns=5)


def span(values: Sequence[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


def versions(rows: Sequence[Row]) -> str:
    """Of the peers, as they are installed now."""
    libraries = {LIBRARIES.get(row.provider.removesuffix(NO_FAULTS)) for row in rows} - {None}
    return ", ".join(f"{name} {version(name)}" for name in sorted(map(str, libraries)))


def markdown(rows: Sequence[Row]) -> str:
    results = results_of(rows)
    one = rows[0]
    machine = (
        f"{one.date}, commit {one.commit}, {one.cpu}, {one.isa}, {one.threads} threads. Peaks "
        f"measured beside the cases: {span([r.peak_gflops for r in rows])} GFLOP/s, "
        f"{span([r.peak_gbps for r in rows])} GB/s. {versions(rows)}"
    )
    suites = {bench.op: bench.suite for bench in benches()}
    whole = [r for r in results if suites.get(r.fastdl.op) in ("train", "infer")]
    ops = [r for r in results if r not in whole]
    tables = [summarise(some) for summarise, some in ((networks, whole), (summary, ops)) if some]
    details = ["<details><summary>Every case</summary>", all_cases(results), "</details>"]
    return "\n\n".join([machine, *tables, *details]) + "\n"


def write(target: str, text: str) -> None:
    """Writes a file, or for "FILE#NAME" what stands between its marks of that name."""
    path, _, name = target.partition("#")
    if name:
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, _, rest = Path(path).read_text().partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"{path} has no {begin.strip()} ... {end}")
        text = before + begin + text + mark + after
    Path(path).write_text(text)
