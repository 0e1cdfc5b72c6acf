# SPDX-License-Identifier: GPL-2.0-only
"""Errors that are the input's fault, not the program's."""

__all__ = ["KmemError"]


class KmemError(Exception):
    """Bad input or contradictory settings; the text is one line and names the remedy."""
