"""Device and threads: what torch has here, and what bits depend on."""

import ctypes
import math
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.torch_version import TorchVersion

from luthier.core.names import did_you_mean
from luthier.core.version import OLDEST_TORCH
from luthier.errors import MissingPackageError, SettingError

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]


def check_torch(version: str) -> None:
    """Refuse a torch that is too old: pip does not, so that it never replaces the one that is there.

    Raises:
        MissingPackageError: it is older than the oldest that is tested.

    >>> check_torch("2.13.0+cpu")
    """
    if TorchVersion(version) < OLDEST_TORCH:
        raise MissingPackageError(
            f"torch {version} is older than {OLDEST_TORCH}, the oldest that Luthier is tested with",
            hint=f"pip install --upgrade 'torch>={OLDEST_TORCH}'",
            code="missing-package",
        )


check_torch(torch.__version__)
_SMALL = 1 << 26  # bytes: there is always room for a few times as much


def give_back_memory() -> None:
    """Hand what was freed back to the system, where the C library can; else nothing happens.

    glibc keeps freed memory of less than 32 MB, and blocks of other sizes do not fit the holes: a run that starts
    between those of its checks holds some 30 MB more than one that starts on clean ground.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    trim(0)


def free_memory(device: torch.device | None = None) -> float:
    """Return how many bytes of memory can be had without swapping: of the machine, or of a container that has less.

    Where neither can be found out (beside Linux), half of what there is, or no limit. Of a GPU: what is free there.
    """
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    found = [math.inf]
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024.0)
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0.0, float(limit) - float(used)))
    found.append(_left_of_addresses())
    if len(found) == 2 and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return min(found)


def _left_of_addresses() -> float:
    """Return how much more this process may have under `ulimit -v`."""
    if resource is None or (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) == resource.RLIM_INFINITY:
        return math.inf
    taken = _read("/proc/self/statm").split()
    return max(0.0, limit - (int(taken[0]) * resource.getpagesize() if taken else 0))


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def short_of_memory(module: nn.Module, times: int) -> str:
    """Say that some times a module's parameters and buffers are more than the memory that is free, or nothing.

    >>> short_of_memory(nn.Linear(2, 2), 9)
    ''
    """
    sizes: dict[torch.device, int] = {}
    for x in (*module.parameters(), *module.buffers()):
        if not is_lazy(x) and x.device.type != "meta":
            sizes[x.device] = sizes.get(x.device, 0) + x.numel() * x.element_size()
    for device, size in sizes.items():
        if size > _SMALL and size * times > (free := free_memory(device)):
            return (
                f"{type(module).__name__} takes {size / 2**30:.2g} GiB of {device} memory, and {times} times as much "
                f"is more than the {free / 2**30:.2g} GiB that are free"
            )
    return ""


def find_device(name: str | torch.device | None) -> torch.device:
    """Return the device of that name.

    Raises:
        SettingError: torch does not know the name, or does not have the device on this machine.
    """
    if name is None:
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # "meta" has no numbers to copy
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = available_devices()
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # twenty kinds, most of which no machine has
            reason = "torch knows no such device"
        raise SettingError(
            f"device {str(name)!r} cannot be used here: {reason}",
            hint=did_you_mean(str(name), here) if str(name) not in here else f"this torch has: {', '.join(here)}",
            code="setting-device",
        ) from error
    return device


def available_devices() -> list[str]:
    """Return the names of the devices that this torch can use here, the best first."""
    names = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        names.append("mps")
    return [*names, "cpu"]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast context of a precision on a device.

    Raises:
        SettingError: the device does not have that precision.
    """
    if precision == "float32":
        return nullcontext()
    if precision == "fp16" and device.type == "cpu":
        raise SettingError(
            "precision 'fp16' is not available on the CPU",
            hint="use bf16 or float32",
            code="setting-precision",
        )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def compile_in_place(module: nn.Module) -> None:
    """Let calls of `module` go by `torch.compile`, with no name of its parts changed.

    A kernel is made for each shape, so that a resumed run has those of the run before. `Module.compile` does not do
    it: classes of torch.nn, as Sequential, are passed over by the compiler at the top.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        return module._call_impl(*args, **kwargs)

    module._compiled_call_impl = torch.compile(call, dynamic=False)


def machine() -> dict[str, Any]:
    """Return what the bits of a run depend on beside its data and settings."""
    return {
        "torch": torch.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
