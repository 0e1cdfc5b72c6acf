# SPDX-License-Identifier: GPL-2.0-only
"""What a run looks like: tables, /proc files, JSON."""
