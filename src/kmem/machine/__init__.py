# SPDX-License-Identifier: GPL-2.0-only
"""Descriptions of machines and their state: files of a real kernel read into the model."""
