# SPDX-License-Identifier: GPL-2.0-only
from typing import Any

import numpy as np
import numpy.typing as npt

EVENT_NAMES: tuple[str, ...]
TRACE_DTYPE: np.dtype[np.void]

class Tracepoints:
    enabled: int
    time_ns: int
    pid: int
    call_site: int
    cpu: int
    @property
    def lost(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def limit(self) -> int: ...
    def __init__(self, limit: int = 1048576) -> None: ...
    def enable(self, *names: str) -> None: ...
    def disable(self) -> None: ...
    def drain(self) -> npt.NDArray[Any]: ...
