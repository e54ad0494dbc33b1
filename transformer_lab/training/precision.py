"""In which numbers a training multiplies: float32, or bfloat16 where the device is quicker with it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """Computes matrix products in one dtype; the weights stay in float32.

    Args:
        dtype: torch.float32 or torch.bfloat16. float16 has too few exponents for gradients without a
            scaling of the loss, which isn't offered.

    Raises: ValueError if it is another dtype.

    >>> BFLOAT16
    Precision(dtype=torch.bfloat16)
    """

    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"precision must be torch.float32 or torch.bfloat16; it is {self.dtype}."
            )

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        """Within it, torch multiplies in this precision.

        Args:
            device: Where the multiplying is done.
        """
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


FLOAT32 = Precision()
BFLOAT16 = Precision(torch.bfloat16)


def automatic_precision(device: torch.device | str) -> Precision:
    """bfloat16 where the device has instructions for it (AVX512-BF16, AMX, CUDA from 8.0), else float32.

    On a CPU it pays from about 256 features; below, the casting takes what the products save. Losses
    then differ from one kind of machine to another in the third digit.

    Args:
        device: Where the model is.

    >>> automatic_precision("meta")
    Precision(dtype=torch.float32)
    """
    kind = torch.device(device).type
    if kind == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        quick = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    else:
        quick = False
    return BFLOAT16 if quick else FLOAT32
