"""fastdl for PyTorch: functions, modules and optimisers of the same names, on the CPU, faster.

>>> import torch, fastdl.torch
>>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
>>> report = fastdl.torch.patch(model)
>>> model(torch.ones(1, 3, 8, 8)).shape
torch.Size([1, 8, 6, 6])
"""

from fastdl.torch import flash_attention, functional, nn, optim
from fastdl.torch.functional import *  # noqa: F403
from fastdl.torch.functional import __all__ as _functions
from fastdl.torch.optimize import optimize
from fastdl.torch.override import override
from fastdl.torch.patch import PatchReport, patch, patched, unpatch
from fastdl.torch.verify import LayerCheck, VerifyReport, verify

__all__ = [
    *_functions,
    "LayerCheck",
    "PatchReport",
    "VerifyReport",
    "flash_attention",
    "functional",
    "nn",
    "optim",
    "optimize",
    "override",
    "patch",
    "patched",
    "unpatch",
    "verify",
]
