"""A stand-in for a GPU: a device of torch whose memory is the host's, and whose kernels the CPU's.

As on a GPU, a tensor of the device meets none of the CPU and has no `.numpy()`; memory that nobody
has written holds NaN. So what computes on it gives the CPU's numbers if, and only if, every tensor
was put on the right device. The device is an extension in C++, compiled once for each version of
its source and of torch.
"""

import functools
import hashlib
import shutil
import subprocess
import types
from pathlib import Path

import pytest
import torch

NAME = "standin"
SOURCE = Path(__file__).with_name("stand_in_device.cpp")


@functools.cache
def load(folder: Path) -> str:
    """Name of the device; the compiled extension is kept in folder. Skips without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        pytest.skip("the stand-in device needs a C++ compiler: c++, g++ or clang++ in PATH")
    installed = Path(torch.__file__).parent
    digest = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()
    library = folder / f"stand_in_device-{digest[:16]}.so"
    if not library.exists():
        unfinished = library.with_suffix(".part")
        options = ["-shared", "-fPIC", "-std=c++20", "-O0", "-w"]
        libraries = [f"-L{installed / 'lib'}", "-lc10", "-ltorch_cpu"]
        subprocess.run(
            [
                compiler,
                *options,
                f"-I{installed / 'include'}",
                SOURCE,
                "-o",
                unfinished,
                *libraries,
            ],
            check=True,
        )
        unfinished.replace(library)
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    return NAME


def _module() -> types.ModuleType:
    """What torch asks of the Python module of a device, such as torch.cuda."""
    module = types.ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "_is_in_bad_fork": lambda: False,
        "manual_seed_all": lambda seed: None,
    }
    vars(module).update(answers)
    return module
