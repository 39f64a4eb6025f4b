"""Uses an installed fastdl: python check_wheel.py MODULE..., which are imported in that order."""

import importlib
import sys
from pathlib import Path

for module in sys.argv[1:]:
    importlib.import_module(module)

import numpy as np  # noqa: E402

import fastdl  # noqa: E402

x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
window = np.ones((1, 1, 3, 3), np.float32)
for threads in (1, 2):
    fastdl.set_num_threads(threads)
    np.testing.assert_allclose(fastdl.softmax(x, 3).sum(3), 1, rtol=1e-6)
    np.testing.assert_array_equal(fastdl.conv2d(x, window), x[..., 1:3, 1:3] * 9)
fastdl.show_config()

mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
runtimes = sorted(path for path in mapped if "libgomp" in Path(path).name)
if len(runtimes) != 1:
    sys.exit(f"expected one OpenMP runtime in the process, found {runtimes}")
first = Path(importlib.import_module(sys.argv[1]).__file__ or "").parent
if not Path(runtimes[0]).is_relative_to(first):
    sys.exit(f"the OpenMP runtime is {runtimes[0]}, not that of {sys.argv[1]}")
print(f"{', '.join(sys.argv[1:])}: ok, one OpenMP runtime")
