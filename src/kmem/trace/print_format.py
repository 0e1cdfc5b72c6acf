# SPDX-License-Identifier: GPL-2.0-only
"""The ``print fmt`` of a tracepoint: what each ``key=%x`` of its text is computed from.

A kernel describes each tracepoint as a C format string and C expressions over
the recorded fields (``REC->pfn != -1UL ? REC->pfn : 0``).  Names of flags, what
counts as accounted and when a fallback is fragmenting are nowhere else in a
recording, and differ between kernels, so the expressions are read and computed
here.  Only their values are: an expression that names something of the running
kernel (a variable, a function) cannot be computed, and says so.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping

__all__ = ["PrintFormat", "Unknown"]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>0[xX][0-9a-fA-F]+|\d+)(?P<suffix>[uUlL]*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<name>[A-Za-z_]\w*)
    | (?P<op>->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:(),{}\[\].])
    )""",
    re.VERBOSE,
)
_CONVERSION = re.compile(
    r"(?:([A-Za-z_]\w*)=(?:0x)?)?%(?:%|[-+ #0]*(\*|\d+)?(?:\.(\*|\d+))?[hlLzjt]*[a-zA-Z][A-Za-z]{0,2}?)"
)
_TYPE_WORDS = frozenset(
    ["unsigned", "signed", "int", "long", "short", "char", "void", "const", "volatile", "bool", "struct", "enum"]
    + [f"{prefix}{bits}" for prefix in ("u", "s", "__u", "__s") for bits in (8, 16, 32, 64)]
)
_LEVELS: tuple[tuple[str, ...], ...] = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", ">", "<=", ">="),
    ("<<", ">>"),
    ("+", "-"),
)
_LEVELS += (("*", "/", "%"),)
_LEVEL_OF = {operator: level for level, operators in enumerate(_LEVELS) for operator in operators}
_MASK = (1 << 64) - 1
_LONGEST = 65536
_DEEPEST = 100

Value = int | str
Node = Callable[[Mapping[str, int]], Value]


class Unknown(Exception):
    """An expression is not C as tracepoints use it, or needs what only the recorded kernel knew."""


class PrintFormat:
    """A tracepoint's print format.

    Parameters
    ----------
    text : str
        What follows ``print fmt:`` in the format file.

    Attributes
    ----------
    keys : dict of str to str
        The C expression printed for each ``key=``.
    fixed : dict of str to str
        Keys whose value is written out in the format itself (``order=0``).
    """

    def __init__(self, text: str) -> None:
        self.keys: dict[str, str] = {}
        self.fixed: dict[str, str] = {}
        if len(text) > _LONGEST:
            return
        parts = _split(text)
        if not parts or not parts[0].startswith('"'):
            return
        template = parts[0].strip('"')
        self.fixed = dict(re.findall(r"(\w+)=(\w+)(?=\s|$)", template))
        number = 1
        for found in _CONVERSION.finditer(template):
            if found[0].endswith("%%"):
                continue
            number += (found[2] == "*") + (found[3] == "*")
            if found[1] and number < len(parts):
                self.keys[found[1]] = parts[number]
            number += 1

    def compute(self, key: str, fields: Mapping[str, int]) -> Value:
        """Compute what is printed for a key.

        Parameters
        ----------
        key : str
            As in ``key=%s``.
        fields : mapping of str to int
            Values of the recorded fields that the expression may use.

        Raises
        ------
        Unknown
            The format has no such key, or its expression cannot be computed.
        """
        if key not in self.keys:
            raise Unknown(f"no {key}= in the format")
        try:
            return compile_expression(self.keys[key])(fields)
        except RecursionError:
            raise Unknown("nested too deeply") from None


def _split(text: str) -> list[str]:
    """Split a print format at the commas that stand outside of any bracket and string."""
    parts: list[str] = []
    depth = begin = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[(){},]', text):
        token = found[0]
        if token in "({":
            depth += 1
        elif token in ")}":
            depth -= 1
        elif token == "," and depth == 0:
            parts.append(text[begin : found.start()].strip())
            begin = found.end()
    parts.append(text[begin:].strip())
    return parts


@functools.lru_cache(maxsize=256)  # the list of GFP flags is long, and the same in most events
def compile_expression(text: str) -> Node:
    """Turn a C expression into a function of the recorded fields.

    Raises
    ------
    Unknown
        It is no expression of the sort that print formats hold.
    """
    parser = _Parser(text)
    try:
        node = parser.ternary()
    except RecursionError:
        raise Unknown("nested too deeply") from None
    if parser.at < len(parser.tokens):
        raise Unknown(f"cannot read {text[:60]!r}")
    return node


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        self.depth = 0
        position = 0
        text = text.rstrip()
        while position < len(text):
            found = _TOKEN.match(text, position)
            if not found:
                raise Unknown(f"cannot read {text[position : position + 20]!r}")
            kind = found.lastgroup if found.lastgroup != "suffix" else "number"
            assert kind is not None
            self.tokens.append((kind, found[kind]))
            position = found.end()

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][1] if self.at + ahead < len(self.tokens) else ""

    def kind(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead][0] if self.at + ahead < len(self.tokens) else ""

    def eat(self, token: str) -> None:
        if self.peek() != token:
            raise Unknown(f"expected {token} and not {self.peek()!r}")
        self.at += 1

    def ternary(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Unknown("nested too deeply")
        condition = self.binary(0)
        if self.peek() == "?":
            self.at += 1
            yes = self.ternary()
            self.eat(":")
            no = self.ternary()
            self.depth -= 1
            return lambda fields: yes(fields) if condition(fields) else no(fields)
        self.depth -= 1
        return condition

    def binary(self, level: int) -> Node:
        left = self.unary()
        while self.kind() == "op" and _LEVEL_OF.get(self.peek(), -1) >= level:
            operator = self.peek()
            self.at += 1
            left = _operation(operator, left, self.binary(_LEVEL_OF[operator] + 1))
        return left

    def unary(self) -> Node:
        token = self.peek()
        if self.kind() == "op" and token in ("!", "~", "-", "+"):
            self.at += 1
            operand = self.unary()
            if token == "!":
                return lambda fields: int(not operand(fields))
            if token == "~":
                return lambda fields: ~_number(operand(fields)) & _MASK
            if token == "-":
                return lambda fields: -_number(operand(fields))
            return operand
        if token == "(" and self.cast_ends():
            return self.unary()
        return self.primary()

    def cast_ends(self) -> bool:
        """Skip a cast at the current place, if there is one."""
        ahead = 1
        words = 0
        while self.kind(ahead) == "name" and (
            self.peek(ahead) in _TYPE_WORDS
            or self.peek(ahead).endswith("_t")
            or self.peek(ahead - 1) in ("struct", "enum")
        ):
            ahead += 1
            words += 1
        while self.peek(ahead) == "*":
            ahead += 1
        if words and self.peek(ahead) == ")":
            self.at += ahead + 1
            return True
        return False

    def primary(self) -> Node:
        kind, token = self.kind(), self.peek()
        self.at += 1
        if token == "(":
            node = self.ternary()
            self.eat(")")
            return node
        if kind == "number":
            octal = len(token) > 1 and token[0] == "0" and token.isdigit()
            try:
                value = int(token, 8 if octal else 0)
            except ValueError:
                raise Unknown(f"no number: {token}") from None
            return lambda fields: value
        if kind == "string":
            text = token[1:-1]
            return lambda fields: text
        if kind == "name" and token == "REC" and self.peek() == "->":
            name = self.peek(1)
            self.at += 2
            return lambda fields: _field(fields, name)
        if kind == "name" and self.peek() == "(":
            return self.call(token)
        raise Unknown(f"{token or 'the end'} has no value here")

    def call(self, name: str) -> Node:
        if name not in ("__print_flags", "__print_flags_u64", "__print_symbolic", "__print_symbolic_u64"):
            raise Unknown(f"{name}() is a function of the kernel")
        self.eat("(")
        value = self.ternary()
        delimiter = ""
        if "flags" in name:
            self.eat(",")
            delimiter = self.peek().strip('"')
            self.at += 1
        pairs: list[tuple[Node, str]] = []
        while self.peek() == ",":
            self.at += 1
            self.eat("{")
            bits = self.ternary()
            self.eat(",")
            if self.kind() == "string":
                pairs.append((bits, self.peek().strip('"')))
                self.at += 1
            else:
                self.ternary()  # newer kernels end the list with an entry of nothing: { 0, ((void *)0) }
            self.eat("}")
        self.eat(")")
        table = [(_number(bits({})) & _MASK, text) for bits, text in pairs]
        if "flags" in name:
            return lambda fields: _print_flags(_number(value(fields)) & _MASK, table, delimiter)
        return lambda fields: _print_symbolic(_number(value(fields)) & _MASK, table)


def _field(fields: Mapping[str, int], name: str) -> int:
    if name not in fields:
        raise Unknown(f"the field {name} is not known")
    return fields[name]


def _number(value: Value) -> int:
    if isinstance(value, str):
        raise Unknown("a text where a number belongs")
    return value


def _operation(operator: str, left: Node, right: Node) -> Node:
    if operator == "&&":
        return lambda fields: int(bool(left(fields)) and bool(right(fields)))
    if operator == "||":
        return lambda fields: int(bool(left(fields)) or bool(right(fields)))
    compute = _OPERATIONS[operator]

    def node(fields: Mapping[str, int]) -> Value:
        a, b = _number(left(fields)), _number(right(fields))
        if operator in ("<<", ">>") and not 0 <= b < 64:
            raise Unknown("shift out of range")
        if operator in ("/", "%") and b == 0:
            raise Unknown("division by zero")
        return int(compute(a, b))

    return node


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: int((a & _MASK) == (b & _MASK)),
    "!=": lambda a, b: int((a & _MASK) != (b & _MASK)),
    "<": lambda a, b: int(a < b),
    ">": lambda a, b: int(a > b),
    "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
    "<<": lambda a, b: (a << b) & _MASK,
    ">>": lambda a, b: a >> b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}


def _print_flags(value: int, table: list[tuple[int, str]], delimiter: str) -> str:
    """Join the names of bits as the kernel does, what is left over last and in hexadecimal."""
    words = []
    for bits, text in table:
        if bits and value & bits == bits:
            words.append(text)
            value &= ~bits
        elif not bits and not value and not words:
            return text
    if value:
        words.append(f"{value:#x}")
    return delimiter.join(words)


def _print_symbolic(value: int, table: list[tuple[int, str]]) -> str:
    for number, text in table:
        if number == value:
            return text
    return f"{value:#x}"
