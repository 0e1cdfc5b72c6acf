# SPDX-License-Identifier: GPL-2.0-only
"""The model: one module per concept of the kernel, named by the kernel's word."""
