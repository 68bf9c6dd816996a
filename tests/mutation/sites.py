"""Where a source can be changed a little, and the source with one such change."""

import ast
from typing import NamedTuple

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
BOOLEAN = {ast.And: ast.Or, ast.Or: ast.And}
KINDS = ("operator", "constant", "return")


class Site(NamedTuple):
    """A node that can be changed: its kind, its place in a walk of the tree, and its line."""

    kind: str
    number: int
    line: int


def sites_of(source: str) -> list[Site]:
    """Every place of a source that `mutated` changes; annotations and docstrings are none."""
    tree = ast.parse(source)
    left_out = _not_computed(tree)
    return [
        Site(kind, number, node.lineno)
        for number, node in enumerate(ast.walk(tree))
        if id(node) not in left_out and (kind := _kind(node)) is not None
    ]


def mutated(source: str, site: Site) -> tuple[str, str]:
    """The source with the node of `site` changed, and what was changed, as "old -> new"."""
    tree = ast.parse(source)
    node = next(n for number, n in enumerate(ast.walk(tree)) if number == site.number)
    segment = ast.get_source_segment(source, node)
    assert segment is not None
    changed = _changed(node)
    lines = source.splitlines(keepends=True)
    start = sum(len(line.encode()) for line in lines[: node.lineno - 1]) + node.col_offset
    data = source.encode()
    end = start + len(segment.encode())
    text = f"({changed})" if site.kind == "operator" else changed
    return (data[:start] + text.encode() + data[end:]).decode(), f"{segment} -> {changed}"


def _kind(node: ast.AST) -> str | None:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            return "operator"
        case ast.BinOp(op=operator) if type(operator) in ARITHMETIC and not _is_text(node):
            return "operator"
        case ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
            return "operator"
        case ast.Constant(value=bool() | int() | float()):
            return "constant"
        case ast.Return(value=value) if value is not None and not _is_none(value):
            return "return"
    return None


def _changed(node: ast.AST) -> str:
    match node:
        case ast.Compare(ops=[operator]):
            node.ops = [COMPARISONS[type(operator)]()]
        case ast.BinOp(op=operator):
            node.op = ARITHMETIC[type(operator)]()
        case ast.BoolOp(op=operator):
            node.op = BOOLEAN[type(operator)]()
        case ast.UnaryOp(operand=operand):
            return ast.unparse(operand)
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=int() as value):
            node.value = value + 1
        case ast.Constant(value=float() as value):
            node.value = value * 2 or 1.0
        case ast.Return(value=ast.Constant(value=bool() as value)):
            return f"return {not value}"
        case ast.Return():
            return "return None"
    return ast.unparse(node)


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) or _is_string(side) for side in sides)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _not_computed(tree: ast.AST) -> set[int]:
    """Nodes of annotations, of decorators and inside f-strings, whose places Python 3.11 blurs."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg):
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.JoinedStr):
            roots.append(node)
    return {id(inner) for root in roots if root is not None for inner in ast.walk(root)}
