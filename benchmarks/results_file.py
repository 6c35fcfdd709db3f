"""A result is one JSON file: what was run, when, on which machine, with which versions, and the
rows that came out.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "scikit-learn")


def write_result(
    name: str, rows: Sequence[dict[str, Any]], *, repeats: int = 1, peers: Sequence[str] = ()
) -> Path:
    """Write ``results/NAME.json``, and say so.

    Parameters
    ----------
    name : str
        Of the benchmark.
    rows : sequence of dict
        What was measured. Each becomes one line of the file; floats keep five significant digits.
    repeats : int, default=1
        How often each number was measured.
    peers : sequence of str, default=()
        Distributions whose versions belong to the result, besides the usual ones.

    Returns
    -------
    Path
        The file.
    """
    head = {
        "benchmark": name,
        "command": command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(peers),
        "repeats": repeats,
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(as_text(head, rows), encoding="utf-8")
    print(f"written: {path.name}")
    return path


def read_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of ``results/NAME.json``."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))[
        "rows"
    ]
    return rows


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def as_text(head: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Lay the file out: the head indented, one row per line, keys in the order given."""
    lines = ",\n".join(
        "    " + json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in rows
    )
    return (
        json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
        + f',\n  "rows": [\n{lines}\n  ]\n}}\n'
    )


def command() -> str:
    """Return how this process was started, without the folders of files."""
    arguments = [re.sub(r"[^=]*/", "", argument) for argument in sys.argv[1:]]
    return " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])


def machine() -> dict[str, Any]:
    """Describe the machine by its kind, not by its name; what cannot be found out is None."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    model = (
        re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if cpuinfo.is_file()
        else None
    )
    return {
        "cpu": model[1] if model else platform.processor() or None,
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
        if hasattr(os, "sysconf")
        else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions(peers: Sequence[str] = ()) -> dict[str, str | None]:
    """Return the versions of Python, of the packages that matter and of ``pipeline``; None where
    one is not installed.
    """
    from pipeline import __version__

    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*PACKAGES, *peers):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {**found, **cuda_versions(), "pipeline": __version__}


def cuda_versions() -> dict[str, str | None]:
    """Return the versions of CUDA and of the driver; nothing where no GPU is."""
    import torch

    if not torch.cuda.is_available():
        return {}
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(
            asked, capture_output=True, text=True, check=True, timeout=30
        ).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = None
    return {"cuda": torch.version.cuda, "driver": driver}


def _plain(value: Any) -> Any:
    """Return the value as JSON knows it; NumPy's numbers are unpacked, floats keep five significant
    digits.
    """
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.5g}") if isinstance(value, float) else value
