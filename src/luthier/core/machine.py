"""Device and threads: what torch has here, and what bits depend on."""

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from luthier.core.names import did_you_mean
from luthier.errors import SettingError


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


def find_device(name: str | torch.device | None) -> torch.device:
    """Return the device of that name.

    Raises:
        SettingError: torch does not know the name, or does not have the device on this machine.
    """
    if name is None:
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = available_devices()
        reason = str(error).splitlines()[0]
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
            "precision 'fp16' is not to be had on the cpu",
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
