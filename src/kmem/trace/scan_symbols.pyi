# SPDX-License-Identifier: GPL-2.0-only
import numpy as np
import numpy.typing as npt

def scan_kallsyms(data: bytes | memoryview) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint32]]: ...
