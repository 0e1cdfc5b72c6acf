# SPDX-License-Identifier: GPL-2.0-only
"""Fuzz targets, one per reader, and two fuzzers that drive them."""
