# SPDX-License-Identifier: GPL-2.0-only
import numpy as np

NO_PAGE: int
PAGE_DTYPE: np.dtype[np.void]
KIND_NAMES: tuple[str, ...]
