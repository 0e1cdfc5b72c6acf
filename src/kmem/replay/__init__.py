# SPDX-License-Identifier: GPL-2.0-only
"""A recorded workload driving the model."""
