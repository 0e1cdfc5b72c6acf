# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's API under the names of its headers."""
