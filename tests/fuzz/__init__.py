# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz targets; run by hand."""
