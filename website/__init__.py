# SPDX-License-Identifier: GPL-2.0-only
"""What makes the documentation site out of ``docs``, the docstrings and the model itself."""
