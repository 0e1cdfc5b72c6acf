# SPDX-License-Identifier: GPL-2.0-only
"""Readers of trace formats; one event table for all."""
