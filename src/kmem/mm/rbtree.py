# SPDX-License-Identifier: GPL-2.0-only
"""Red-black tree whose nodes know the largest size below them, of the kernel's own shape.

A search for free address space walks down this tree and may stop at a node
that it merely passes.  With an alignment above a page the answer therefore
depends on where in the tree each free area hangs, and not on the set of free
areas alone.  So the tree is rebalanced in the kernel's steps: the same
insertions and removals in the same order give the same tree.

Source: lib/rbtree.c, include/linux/rbtree_augmented.h @6.1.192
"""

from __future__ import annotations

from typing import Final, Generic, Self, TypeVar

__all__ = ["LEFT", "RIGHT", "RbNode", "RbTree"]

#: Sides of a node: indexes of :attr:`RbNode.child`.
LEFT: Final = 0
RIGHT: Final = 1


class RbNode:
    """A node, to be subclassed by what is kept in the tree.

    Attributes
    ----------
    subtree_max_size : int
        Largest :attr:`size` among the node and all below it.
    child : list
        Left and right child, None where there is none.
    parent : RbNode or None
        The node above, None at the root.
    red : bool
        The node's colour.
    """

    __slots__ = ("child", "parent", "red", "subtree_max_size")

    child: list[Self | None]
    parent: Self | None

    def __init__(self) -> None:
        self.child = [None, None]
        self.parent = None
        self.red = True
        self.subtree_max_size = 0

    @property
    def size(self) -> int:
        """What :attr:`subtree_max_size` is the maximum of."""
        raise NotImplementedError

    def largest(self) -> int:
        """Return what :attr:`subtree_max_size` must be, given those of the children."""
        size = self.size
        for child in self.child:
            if child is not None and child.subtree_max_size > size:
                size = child.subtree_max_size
        return size


N = TypeVar("N", bound=RbNode)


class RbTree(Generic[N]):
    """The tree.  It does not compare nodes: callers find the place, and link the node there.

    All operations take O(log n) steps.
    """

    def __init__(self) -> None:
        self.root: N | None = None

    def insert(self, node: N, parent: N | None, side: int) -> None:
        """Hang a node below `parent` and rebalance.

        Parameters
        ----------
        node : RbNode
            The new node; the sizes above it are not brought up to date, see :meth:`propagate`.
        parent : RbNode or None
            The node to hang it under, None for an empty tree.
        side : int
            LEFT or RIGHT; that child of `parent` must be empty.

        Notes
        -----
        Source: lib/rbtree.c:__rb_insert @6.1.192
        """
        node.child = [None, None]
        node.parent = parent
        node.red = True
        if parent is None:
            self.root = node
        else:
            parent.child[side] = node
        self._balance_after_insert(node)
        # Rotations may have seen a stale size; the caller's propagate() starts from nothing.
        node.subtree_max_size = 0

    def _balance_after_insert(self, node: N) -> None:
        while True:
            parent = node.parent
            if parent is None:
                node.red = False
                return
            if not parent.red:
                return
            above = parent.parent
            assert above is not None  # a root is never red
            side = LEFT if above.child[LEFT] is parent else RIGHT
            uncle = above.child[1 - side]
            if uncle is not None and uncle.red:
                uncle.red = parent.red = False
                above.red = True
                node = above
                continue
            if node is parent.child[1 - side]:
                self._rotate(parent, side)
                parent = node
            self._rotate(above, 1 - side)
            parent.red, above.red = False, True
            return

    def _rotate(self, down: N, side: int) -> None:
        """Move a node down to `side`; its other child takes its place, the colours stay with the nodes."""
        up = down.child[1 - side]
        assert up is not None
        inner = up.child[side]
        down.child[1 - side] = inner
        if inner is not None:
            inner.parent = down
        up.child[side] = down
        self._replace(down, up)
        down.parent = up
        up.subtree_max_size = down.subtree_max_size
        down.subtree_max_size = down.largest()

    def _replace(self, old: N, new: N | None) -> None:
        """Put `new` where `old` hangs."""
        parent = old.parent
        if new is not None:
            new.parent = parent
        if parent is None:
            self.root = new
        else:
            parent.child[LEFT if parent.child[LEFT] is old else RIGHT] = new

    def erase(self, node: N) -> None:
        """Take a node out and rebalance; sizes above are brought up to date.

        Notes
        -----
        Source: include/linux/rbtree_augmented.h:__rb_erase_augmented @6.1.192
        """
        left, right = node.child
        if left is None or right is None:
            only = right if left is None else left
            parent = node.parent
            self._replace(node, only)
            if only is not None:
                only.red = node.red
            short = parent if only is None and not node.red else None
            start = parent
        else:
            start, short = self._erase_inner(node, left, right)
        self.propagate(start)
        if short is not None:
            self._balance_after_erase(short)
        node.parent = None
        node.child = [None, None]

    def _erase_inner(self, node: N, left: N, right: N) -> tuple[N, N | None]:
        """Put the next node in the place of one with two children.

        Returns
        -------
        start : RbNode
            Where sizes have to be brought up to date from.
        short : RbNode or None
            The node one of whose subtrees has lost a black node.
        """
        parent: N = node
        successor = right
        while (smaller := successor.child[LEFT]) is not None:
            parent, successor = successor, smaller
        orphan = successor.child[RIGHT]
        if parent is node:
            parent = successor
        else:
            parent.child[LEFT] = orphan
            successor.child[RIGHT] = right
            right.parent = successor
        successor.subtree_max_size = node.subtree_max_size
        if parent is not successor:
            self.propagate(parent, successor)
        successor.child[LEFT] = left
        left.parent = successor
        self._replace(node, successor)
        short = None
        if orphan is not None:
            orphan.parent = parent
            orphan.red = False
        elif not successor.red:
            short = parent
        successor.red = node.red
        return successor, short

    def _balance_after_erase(self, parent: N) -> None:
        """Give the subtree of `parent` that is one black node short its node back.

        Notes
        -----
        Source: lib/rbtree.c:____rb_erase_color @6.1.192
        """
        node: N | None = None
        while True:
            side = LEFT if parent.child[RIGHT] is not node else RIGHT
            other = 1 - side
            sibling = parent.child[other]
            assert sibling is not None
            if sibling.red:
                self._rotate(parent, side)
                sibling.red, parent.red = False, True
                sibling = parent.child[other]
                assert sibling is not None
            far, near = sibling.child[other], sibling.child[side]
            if far is None or not far.red:
                if near is None or not near.red:
                    sibling.red = True
                    if not parent.red and parent.parent is not None:
                        node, parent = parent, parent.parent
                        continue
                    parent.red = False
                    return
                self._rotate(sibling, other)
                far, sibling = sibling, near
            self._rotate(parent, side)
            sibling.red, parent.red, far.red = parent.red, False, False
            return

    def propagate(self, node: N | None, stop: N | None = None) -> None:
        """Bring :attr:`RbNode.subtree_max_size` up to date from a node upward, until nothing changes.

        Parameters
        ----------
        node : RbNode or None
            Whose own size, or whose children, changed.
        stop : RbNode, optional
            The node not to go up to.
        """
        while node is not None and node is not stop:
            largest = node.largest()
            if largest == node.subtree_max_size:
                return
            node.subtree_max_size = largest
            node = node.parent

    def validate(self) -> int:
        """Check colours, links and sizes; return the number of nodes.

        Raises
        ------
        ValueError
            The tree is damaged.  O(n).
        """
        if self.root is not None and (self.root.red or self.root.parent is not None):
            raise ValueError("the root of the tree is red, or hangs below a node")
        return self._validate(self.root)[0]

    def _validate(self, node: N | None) -> tuple[int, int]:
        if node is None:
            return 0, 1
        counts, heights = [], []
        for child in node.child:
            if child is not None and (child.parent is not node or (child.red and node.red)):
                raise ValueError("a node of the tree has a wrong parent, or a red one above a red one")
            count, height = self._validate(child)
            counts.append(count)
            heights.append(height)
        if heights[LEFT] != heights[RIGHT]:
            raise ValueError("the tree is not balanced")
        if node.subtree_max_size != node.largest():
            raise ValueError(f"a subtree's largest size is {node.largest()}, its node says {node.subtree_max_size}")
        return sum(counts) + 1, heights[LEFT] + (not node.red)
