"""Run the Python blocks of a Markdown page in order, and give what each printed beside what the
page says it prints.
"""

import contextlib
import io
import re
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\s*```text\n(?P<shown>.*?)```)?", re.DOTALL)


def run_page(path: Path) -> list[tuple[str, str, str | None]]:
    """Return (code, printed, shown on the page or None) of every block; they share one namespace,
    as for a reader.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    results = []
    for block in BLOCK.finditer(path.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], str(path), "exec"), namespace)
        results.append((block["code"], printed.getvalue(), block["shown"]))
    return results
