"""Where a chat template's output depends on what somebody wrote: read off its syntax tree, never run.

A template is a program that sees every prompt, so it can carry a backdoor by itself, with the weights untouched. Ordinary
templates look at roles, at whether there are tools, at the kind of a content; one that looks for words is worth a look. The
analysis follows contents through assignments, loops and macros and leans towards naming too much.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols

from bkdinterp.errors import ArtefactError
from bkdinterp.reprs import cut

# What may be asked of a content without looking into it.
_KINDS = {"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "sameas"}
# Filters that give a content on, changed in its blanks or form only.
_PLAIN = {"trim", "safe", "string", "tojson", "escape", "e", "default", "d", "join", "list", "indent"}
_PLAIN_METHODS = {"strip", "rstrip", "lstrip"}
_CLOCK = "strftime_now"
LONGEST = 160
DEEP = "The chat template's expressions are nested too deeply to be read."


@dataclass(frozen=True)
class Conditional:
    """A place where a template decides by what somebody wrote, or by the date.

    Attributes:
        line: its line, from 1.
        source: that line, shortened.
        texts: constant texts that it compares with.
        on: ``"content"`` or ``"date"``.
        condition: hash of the condition alone, wherever it stands.
    """

    line: int
    source: str
    texts: tuple[str, ...]
    on: str
    condition: str = ""


class _Generation(Extension):
    """The block that transformers adds to Jinja."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def parsed(template: str) -> nodes.Template:
    """The template's syntax tree.

    Raises:
        ArtefactError: it is not a template.
    """
    environment = Environment(
        extensions=[_Generation, loopcontrols], trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        return environment.parse(template)
    except (TemplateError, RecursionError) as error:
        raise ArtefactError(f"The chat template cannot be read: {cut(str(error), LONGEST)}") from error


def constants(template: str) -> tuple[str, ...]:
    """Every constant text in the template's expressions, joined ones joined; in their order, each once."""
    found: dict[str, None] = {}
    try:
        for node in parsed(template).find_all(nodes.Expr):
            # What a template writes is no condition, and what is a part of a joined text is in that.
            value = _constant(node)
            if isinstance(value, str) and value.strip():
                found.setdefault(value, None)
    except RecursionError as error:
        raise ArtefactError(DEEP) from error
    return tuple(found)


def conditionals(template: str) -> tuple[Conditional, ...]:
    """Places that decide by contents or the date, each condition once: a whole template may stand in one line."""
    tree, lines = parsed(template), template.splitlines() or [""]
    found: dict[tuple[int, str], Conditional] = {}
    try:
        taint = _Tainted(tree)
        for node in taint.decisions():
            on = "date" if _mentions(node, _CLOCK) and not taint.holds(node) else "content"
            texts = {v for e in (node, *node.find_all(nodes.Expr)) if isinstance(v := _constant(e), str)}
            condition = hashlib.sha256(repr(node).encode("utf-8", "backslashreplace")).hexdigest()[:16]
            source = cut(lines[min(node.lineno, len(lines)) - 1].strip(), LONGEST)
            made = Conditional(node.lineno, source, tuple(sorted(texts)), on, condition)
            found.setdefault((node.lineno, condition), made)
    except RecursionError as error:
        raise ArtefactError(DEEP) from error
    return tuple(sorted(found.values(), key=lambda c: (c.line, c.on, c.texts)))


class _Tainted:
    """Names that hold what somebody wrote."""

    def __init__(self, tree: nodes.Template) -> None:
        self.tree = tree
        self.names: set[str] = set()
        # Until nothing is added: a loop may use what a later line assigns.
        while self._spread():
            pass

    def _spread(self) -> bool:
        before = len(self.names)
        for node in self.tree.find_all(nodes.Assign):
            if self.holds(node.node):
                self.names |= set(_targets(node.target))
        for node in self.tree.find_all(nodes.AssignBlock):
            if any(self.holds(part) for part in node.body):
                self.names |= set(_targets(node.target))
        for node in self.tree.find_all(nodes.For):
            if self.holds(node.iter):
                self.names |= set(_targets(node.target))
        for node in self.tree.find_all(nodes.Macro):
            self.names |= {arg.name for arg in node.args}
        return len(self.names) > before

    def holds(self, node: nodes.Node) -> bool:
        """Whether the node's value can hold contents."""
        return any(self._is_source(n) for n in (node, *node.find_all(nodes.Expr)))

    def _is_source(self, node: nodes.Node) -> bool:
        if isinstance(node, nodes.Name):
            return node.name in self.names
        if isinstance(node, nodes.NSRef):
            return f"{node.name}.{node.attr}" in self.names
        if isinstance(node, nodes.Getattr):
            if isinstance(node.node, nodes.Name) and f"{node.node.name}.{node.attr}" in self.names:
                return True
            return node.attr in ("content", "values", "items", "get")
        if isinstance(node, nodes.Getitem):
            key = _constant(node.arg)
            # A number picks a message, a slice picks several; a key that is computed may be any.
            picks = isinstance(node.arg, nodes.Slice) or isinstance(key, int)
            of_list = isinstance(node.node, nodes.Name) and node.node.name == "messages"
            return key == "content" or (not isinstance(key, str) and not picks and not of_list)
        if isinstance(node, nodes.Filter):
            # messages | string holds all contents.
            return node.name in (
                "string",
                "tojson",
                "pprint",
                "selectattr",
                "rejectattr",
                "map",
                "groupby",
            ) and (node.node is not None and _mentions(node.node, "messages"))
        return False

    def decisions(self) -> Iterator[nodes.Node]:
        """Expressions that look into contents or at the clock."""
        for node in self.tree.find_all((nodes.If, nodes.CondExpr, nodes.For)):
            test = node.test
            if test is not None and (self._looks(test) or _asks_clock(test)):
                yield test
        for node in self.tree.find_all((nodes.Filter, nodes.Call, nodes.Getitem)):
            if self._works_on(node):
                yield node

    def _looks(self, test: nodes.Node) -> bool:
        """Whether a condition looks into a content, beyond its kind and its presence."""
        if isinstance(test, nodes.And | nodes.Or):
            return self._looks(test.left) or self._looks(test.right)
        if isinstance(test, nodes.Not):
            return self._looks(test.node)
        if isinstance(test, nodes.Test):
            return test.name not in _KINDS and self.holds(test)
        if isinstance(test, nodes.Name | nodes.Getattr | nodes.Getitem):
            return False  # is it there at all
        if isinstance(test, nodes.Compare):
            sides = [test.expr, *(operand.expr for operand in test.ops)]
            empty = any(isinstance(side, nodes.Const) and side.value in ("", None) for side in sides)
            return self.holds(test) and not empty
        return self.holds(test)

    def _works_on(self, node: nodes.Node) -> bool:
        """Whether an expression changes a content by constant texts: replace, split, a look-up."""
        if isinstance(node, nodes.Filter):
            return (
                node.name not in _PLAIN
                and node.node is not None
                and (self.holds(node.node) or self._is_source(node))
                and any(isinstance(_constant(a), str) for a in node.args)
            )
        if isinstance(node, nodes.Call):
            called = node.node
            if not isinstance(called, nodes.Getattr) or called.attr in _PLAIN_METHODS:
                return False
            own = self.holds(called.node) and any(isinstance(_constant(a), str) for a in node.args)
            return own or (called.attr == "get" and any(self.holds(a) for a in node.args))
        # A dictionary of texts, asked with a content.
        return isinstance(node, nodes.Getitem) and isinstance(node.node, nodes.Dict) and self.holds(node.arg)


def _asks_clock(test: nodes.Node) -> bool:
    """Whether a condition depends on the date; whether there is a clock at all is no such question."""
    if isinstance(test, nodes.Test) and test.name in _KINDS:
        return False
    if isinstance(test, nodes.And | nodes.Or):
        return _asks_clock(test.left) or _asks_clock(test.right)
    if isinstance(test, nodes.Not):
        return _asks_clock(test.node)
    return _mentions(test, _CLOCK)


def _mentions(node: nodes.Node, name: str) -> bool:
    return any(isinstance(n, nodes.Name) and n.name == name for n in (node, *node.find_all(nodes.Name)))


def _targets(target: nodes.Node) -> Iterator[str]:
    if isinstance(target, nodes.Name):
        yield target.name
    elif isinstance(target, nodes.NSRef):
        yield f"{target.name}.{target.attr}"
    elif isinstance(target, nodes.Tuple):
        for item in target.items:
            yield from _targets(item)


def _constant(node: nodes.Node) -> Any:
    """The value of a constant expression of texts; None for everything else."""
    # Not by Jinja's as_const, which would also repeat a text a billion times.
    if isinstance(node, nodes.Const):
        return node.value
    if isinstance(node, nodes.Concat):
        return _joined([_constant(n) for n in node.nodes])
    if isinstance(node, nodes.Add):
        return _joined([_constant(node.left), _constant(node.right)])
    if isinstance(node, nodes.Filter) and node.node is not None and not node.args:
        inner = _constant(node.node)
        if isinstance(inner, str) and node.name == "reverse":
            return inner[::-1]
        if isinstance(inner, str) and node.name in ("lower", "upper", "title", "trim"):
            return {"lower": str.lower, "upper": str.upper, "title": str.title, "trim": str.strip}[node.name](
                inner
            )
    if isinstance(node, nodes.Filter) and node.name == "join" and isinstance(node.node, nodes.List):
        between = _constant(node.args[0]) if node.args else ""
        parts = [_constant(item) for item in node.node.items]
        if isinstance(between, str) and all(isinstance(p, str) for p in parts):
            return between.join(str(p) for p in parts)
    return None


def _joined(parts: list[Any]) -> str | None:
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None
