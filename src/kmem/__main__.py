# SPDX-License-Identifier: GPL-2.0-only
"""``python -m kmem`` is the ``kmem`` program."""

from kmem.cli import program

if __name__ == "__main__":
    program()
