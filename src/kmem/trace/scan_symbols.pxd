# SPDX-License-Identifier: GPL-2.0-only
# C-level interface of kmem.trace.scan_symbols: none; the module is called from Python only.
