"""Count the code: files, code tokens, words of docstrings and comments, by folder.

    python -m benchmarks.size [FOLDER ...]

Code tokens are those of Python's `tokenize` without comments, docstrings, line ends and
indentation. Lists files over 600 lines, and measures the summary lines of docstrings.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

NO_CODE = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
LONGEST_FILE = 600  # lines
LONGEST_SUMMARY = 14  # words


def count(source: str) -> tuple[int, int, list[str]]:
    """Return code tokens, words of docstrings and comments, and summary lines."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset): text.partition("\n\n")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, documented) and (text := ast.get_docstring(node)) is not None
    }
    code = words = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or token.start in docstrings:
            words += len(token.string.split())
        elif token.type not in NO_CODE:
            code += 1
    return code, words, list(docstrings.values())


def main() -> None:
    """Print a line per folder, the sums, files that are too long, and summary lines."""
    for root in sys.argv[1:] or ("pipeline", "tests", "benchmarks"):
        folders: dict[str, list[int]] = {}
        long_files = []
        summaries: list[str] = []
        for path in sorted(Path(root).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            row = folders.setdefault(str(path.parent), [0, 0, 0])
            code, words, of_file = count(source)
            summaries += of_file
            for place, number in enumerate((1, code, words)):
                row[place] += number
            if source.count("\n") > LONGEST_FILE:
                long_files.append(f"  {path}: {source.count(chr(10))} lines")
        for folder, row in [
            *folders.items(),
            (f"{root} in all", [sum(c) for c in zip(*folders.values(), strict=True)]),
        ]:
            print(f"{folder:28} {row[0]:4} files {row[1]:8,} code tokens {row[2]:7,} words")
        lengths = [len(summary.split()) for summary in summaries]
        n = len(lengths) or 1
        print(
            f"{len(lengths):,} docstrings, summary lines of {sum(lengths) / n:.1f} words, "
            f"{sum(';' in summary for summary in summaries) / n:.1%} with a semicolon, "
            f"{sum(length > LONGEST_SUMMARY for length in lengths)} over {LONGEST_SUMMARY} words"
        )
        print(*long_files, sep="\n")


if __name__ == "__main__":
    main()
