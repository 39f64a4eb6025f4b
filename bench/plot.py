"""Two pictures of rows: speed-ups by family, and every case in the roofline."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from bench.harness import Row
from bench.report import Result, geometric_mean, results_of

TORCH, BEST = "#e8743b", "#5b6c8f"
PEAKS = ("peak_gflops", "peak_gbps")


def draw(rows: Sequence[Row], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = results_of(rows)
    families = sorted({(r.fastdl.family, r.fastdl.direction) for r in results}, reverse=True)
    height = max(6.0, 2.0 + 0.42 * len(families))
    figure, (speed, roofline) = plt.subplots(
        1, 2, figsize=(19, height), width_ratios=[5, 6], layout="constrained"
    )
    one = rows[0]
    figure.suptitle(
        f"fastdl {one.commit}: {one.cpu}, {one.isa}, {one.threads} threads", fontsize=13
    )
    draw_speed_ups(speed, results, families)
    draw_roofline(roofline, rows, results)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_speed_ups(
    axes: Axes, results: Sequence[Result], families: Sequence[tuple[str, str]]
) -> None:
    """Two bars a family: the geometric mean of the ratios, and a tick at the worst case."""
    for offset, color, label, ratio_of in (
        (0.2, TORCH, "PyTorch as users run it", Result.against_torch),
        (-0.2, BEST, "fastest of all peers", Result.against_best),
    ):
        for y, family in enumerate(families):
            group = [r for r in results if (r.fastdl.family, r.fastdl.direction) == family]
            ratios = [ratio for r in group if (ratio := ratio_of(r)) is not None]
            if not ratios:
                continue
            mean = geometric_mean(ratios)
            axes.barh(y + offset, mean - 1, left=1, height=0.38, color=color)
            axes.plot([min(ratios)] * 2, [y + offset - 0.19, y + offset + 0.19], color="black")
            axes.text(max(mean, 1), y + offset, f" {mean:.2f}", va="center", fontsize=8)
        axes.barh(0, 0, color=color, label=label)
    axes.plot([], [], color="black", label="worst case of the family")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.set_xlim(left / 1.4, right * 1.4)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(families)), [f"{name}: {way}" for name, way in families], fontsize=9)
    axes.set_ylim(-0.6, len(families) - 0.4)
    axes.set_title("time of the peer / time of fastdl (geometric mean; above 1: fastdl is faster)")
    axes.grid(axis="x", which="both", alpha=0.2)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), ncols=3, frameon=False)


def draw_roofline(axes: Axes, rows: Sequence[Row], results: Sequence[Result]) -> None:
    """FLOP/s over FLOPs a byte; the roof is what the machine's peaks, measured each time, allow."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for result in results:
        row = result.fastdl
        points[row.op].append((row.gflops / row.gbps, row.gflops))
    of_all = np.array([point for group in points.values() for point in group])
    low, high = of_all[:, 0].min() / 2, of_all[:, 0].max() * 2
    intensity = np.geomspace(low, high, 200)

    def roof(pick: Callable[[Sequence[float]], float]) -> np.ndarray:
        flops, bandwidth = (pick([getattr(r, p) for r in rows]) for p in PEAKS)
        return np.minimum(flops, bandwidth * intensity)

    flops, bandwidth = (np.median([getattr(r, p) for r in rows]) for p in PEAKS)
    label = f"roof: {flops:.0f} GFLOP/s, {bandwidth:.0f} GB/s (grey: as measured from case to case)"
    axes.plot(intensity, roof(np.median), color="black", label=label)
    axes.fill_between(intensity, roof(min), roof(max), color="black", alpha=0.12, linewidth=0)
    colors = matplotlib.colormaps["tab20"].colors
    markers = "os^DvP*"
    for k, (op, group) in enumerate(sorted(points.items())):
        x, y = np.array(group).T
        axes.scatter(
            x, y, color=colors[k % len(colors)], marker=markers[k % len(markers)],
            s=34, edgecolors="black", linewidths=0.4, label=op, zorder=3,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set_xlabel("FLOPs for each byte that must be moved")
    axes.set_ylabel("GFLOP/s, counting the FLOPs of the direct algorithm")
    axes.set_title(
        "roofline; above the roof: data in the cache, or an algorithm with fewer FLOPs (Winograd)"
    )
    axes.grid(which="major", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    axes.add_artist(axes.legend(handles[:1], labels[:1], loc="lower right", frameon=False))
    axes.legend(
        handles[1:], labels[1:], loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=5,
        frameon=False, fontsize=9,
    )  # fmt: skip
