"""Small faults, planted one at a time into the source of a function."""

import ast
import copy
from collections.abc import Callable, Iterator

_SWAPS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
# Methods that a learner takes for one another.
_METHODS = {
    "sum": ("mean",),
    "mean": ("sum",),
    "amax": ("amin", "sum"),
    "exp": ("log", "exp2"),
    "log": ("exp", "log2"),
    "tril": ("triu",),
    "triu": ("tril",),
    "any": ("all",),
}


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Each variant of a function's source with one fault, and what the fault is."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        for what, change in _faults(node):
            mutated = copy.deepcopy(tree)
            target = list(ast.walk(mutated))[number]
            change(target)
            yield (
                f"line {getattr(node, 'lineno', '?')}: {what}",
                ast.unparse(ast.fix_missing_locations(mutated)),
            )


def _faults(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    if isinstance(node, ast.BinOp):
        for other in _SWAPS.get(type(node.op), ()):
            yield (
                f"{ast.unparse(node)}: {type(node.op).__name__} → {other.__name__}",
                lambda target, other=other: setattr(target, "op", other()),
            )
        if isinstance(node.op, ast.Sub | ast.Div | ast.MatMult | ast.Pow):
            yield f"{ast.unparse(node)}: sides swapped", _swap_sides
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in _SWAPS.get(type(node.ops[0]), ()):
            yield (
                f"{ast.unparse(node)}: {type(node.ops[0]).__name__} → {other.__name__}",
                lambda target, other=other: setattr(target, "ops", [other()]),
            )
    if isinstance(node, ast.UnaryOp):
        yield f"{ast.unparse(node)}: {type(node.op).__name__} dropped", _drop_unary
    if isinstance(node, ast.Constant):
        yield from _faults_of_constant(node)
    if isinstance(node, ast.Attribute):
        for other in _METHODS.get(node.attr, ()):
            yield (
                f".{node.attr} → .{other}",
                lambda target, other=other: setattr(target, "attr", other),
            )
    if isinstance(node, ast.Call) and node.keywords:
        for position, keyword in enumerate(node.keywords):
            yield (
                f"{ast.unparse(node)}: {keyword.arg} dropped",
                lambda target, position=position: target.keywords.pop(position),
            )


def _faults_of_constant(node: ast.Constant) -> Iterator[tuple[str, Callable[[ast.AST], None]]]:
    value = node.value
    if isinstance(value, bool):
        others: tuple[object, ...] = (not value,)
    elif isinstance(value, int):
        others = (value + 1, value - 1)
    elif isinstance(value, float):
        others = (value * 2, -value)
    else:
        return
    for other in others:
        yield (
            f"{value!r} → {other!r}",
            lambda target, other=other: setattr(target, "value", other),
        )


def _swap_sides(target: ast.BinOp) -> None:
    target.left, target.right = target.right, target.left


def _drop_unary(target: ast.UnaryOp) -> None:
    target.op = ast.UAdd()  # +x is x, and the tree keeps its shape
