# SPDX-License-Identifier: GPL-2.0-only
from kmem.trace.scan_text import TextScanner

class PerfScanner(TextScanner): ...
