# SPDX-License-Identifier: GPL-2.0-only
"""Figures computed from a run."""
