# SPDX-License-Identifier: GPL-2.0-only
"""``<linux/shrinker.h>``: giving memory back under pressure."""

from kmem.mm.shrinker import (
    DEFAULT_SEEKS,
    SHRINK_EMPTY,
    SHRINK_STOP,
    SHRINKER_MEMCG_AWARE,
    SHRINKER_NONSLAB,
    SHRINKER_NUMA_AWARE,
    SHRINKER_REGISTERED,
    ShrinkControl,
    Shrinker,
    register_shrinker,
    synchronize_shrinkers,
    unregister_shrinker,
)

#: The names of the C structures.
shrinker = Shrinker
shrink_control = ShrinkControl

__all__ = [
    "DEFAULT_SEEKS",
    "SHRINKER_MEMCG_AWARE",
    "SHRINKER_NONSLAB",
    "SHRINKER_NUMA_AWARE",
    "SHRINKER_REGISTERED",
    "SHRINK_EMPTY",
    "SHRINK_STOP",
    "ShrinkControl",
    "Shrinker",
    "register_shrinker",
    "shrink_control",
    "shrinker",
    "synchronize_shrinkers",
    "unregister_shrinker",
]
