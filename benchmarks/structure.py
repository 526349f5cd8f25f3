"""Measure how dense the code is, for the page on the redesign in docs/decisions.

    python benchmarks/structure.py [--functions] [FOLDER ...]

Lines of code are those without blank lines, comments and docstrings. Tokens are those of Python's tokenizer on them,
without comments and layout. Branches of a function are 1 and each if, elif, for, while, except, ternary, comprehension,
condition of a comprehension, and operand of `and` and `or` behind the first. The length of a function is that of its
body in lines of code.
"""

import argparse
import ast
import io
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

MAX_BRANCHES = 10
MAX_LINES = 60
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Measures:
    """Counts over some files."""

    files: int = 0
    lines: int = 0
    tokens: int = 0
    comments: int = 0
    ternaries: int = 0
    comprehensions: int = 0
    functions: list[tuple[int, int, str]] = field(default_factory=list)
    """Branches, lines of code and name of each function."""

    def per_thousand(self, count: int) -> float:
        """Return a count for each 1000 lines of code."""
        return 1000 * count / max(1, self.lines)


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the lines of strings that stand alone: docstrings, also those of attributes."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def branches(function: ast.AST) -> int:
    """Return the branches of a function, those of functions inside it included."""
    count = 1
    for node in ast.walk(function):
        count += isinstance(node, BRANCHES)
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        if isinstance(node, COMPREHENSIONS):
            count += sum(1 + len(generator.ifs) for generator in node.generators)
    return count


def measure(path: Path, into: Measures) -> None:
    """Add a file's counts."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = docstring_lines(tree)
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            into.comments += 1
        if token.type in LAYOUT or token.start[0] in docstrings:
            continue
        into.tokens += 1
        code.update(range(token.start[0], token.end[0] + 1))
    into.files += 1
    into.lines += len(code)
    for node in ast.walk(tree):
        into.ternaries += isinstance(node, ast.IfExp)
        into.comprehensions += isinstance(node, COMPREHENSIONS)
        if isinstance(node, Function):
            first, last = node.body[0].lineno, node.end_lineno or node.lineno
            length = len(code.intersection(range(first, last + 1)))
            into.functions.append((branches(node), length, f"{path}:{node.lineno} {node.name}"))


def main() -> None:
    """Print the measures of the package, or of some folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("segdistill")])
    parser.add_argument("--functions", action="store_true", help="name the functions above the limits")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        found = Measures()
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            measure(path, found)
        many = [entry for entry in sorted(found.functions, reverse=True) if entry[0] > MAX_BRANCHES]
        long = [entry for entry in found.functions if entry[1] > MAX_LINES]
        print(
            f"{folder}: {found.files} files, {found.lines} lines, {found.tokens / max(1, found.lines):.2f} tokens per "
            f"line; for each 1000 lines {found.per_thousand(found.ternaries):.0f} ternaries, "
            f"{found.per_thousand(found.comprehensions):.0f} comprehensions, "
            f"{found.per_thousand(found.comments):.0f} comments; {len(many)} functions with more than {MAX_BRANCHES} "
            f"branches; longest {max((length for _, length, _ in found.functions), default=0)} lines"
        )
        if arguments.functions:
            for count, length, name in many:
                print(f"  {count:3d} branches {length:3d} lines  {name}")
            for count, length, name in long:
                print(f"  long: {count:3d} branches {length:3d} lines  {name}")


if __name__ == "__main__":
    main()
