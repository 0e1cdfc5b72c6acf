# SPDX-License-Identifier: GPL-2.0-only
"""``python -m kmem`` is the ``kmem`` program."""

import sys

from kmem.cli import main

if __name__ == "__main__":
    sys.exit(main())
