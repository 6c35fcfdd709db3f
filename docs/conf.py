"""Sphinx configuration of the site. `make docs` writes it to build/site."""

import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))
os.environ["PYTHONPATH"] = str(TOP)  # for the processes that examples start

import pipeline  # noqa: E402

# the gallery looks for shorter names of what examples use
warnings.filterwarnings("ignore", r"pipeline\.\w+ is now", FutureWarning)

# the "?" of a pipeline that an example shows
pipeline.BertVectorizer._doc_link_template = "../api/pipeline.BertVectorizer.html"

project = "Frozen BERT for scikit-learn"
author = "The developers of this project"
project_copyright = "2026, the developers of this project"
release = version = pipeline.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["examples", "_templates", "generated/gallery/*.ipynb"]
templates_path = ["_templates"]
default_role = "py:obj"
nitpicky = True

# ---- Markdown and notebooks, which hold what they printed when they were committed

nb_execution_mode = "off"
myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_heading_anchors = 4

# ---- a page for each public name

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_validation_checks = {"GL08", "PR01", "PR02", "PR03"}
numpydoc_validation_exclude = {  # described in prose, or by a base class
    r"\.(TextStackingClassifier|ScoredTable|TextTooLongError)$",
    r"\.(classification_scores|score_curves|DaskExecutor\.run)$",
}
suppress_warnings = ["config.cache"]  # functions in this file are no values to compare


def own_methods(full_name: str) -> list[str]:
    """Return the documented methods that a class has from this package."""
    module, _, name = full_name.rpartition(".")
    cls = getattr(sys.modules[module], name)
    methods = [method for method in dir(cls) if not method.startswith("_")]
    home = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in methods}
    return [
        name
        for name in methods
        if home[name].__module__.startswith("pipeline.")
        and inspect.isfunction(vars(home[name])[name])
    ]


PUBLIC = {  # short name -> full name
    name.rpartition(".")[2]: name
    for name in re.findall(r"^   (pipeline\.\S+)$", (TOP / "docs/api.rst").read_text("utf-8"), re.M)
}
autosummary_context = {"own_methods": own_methods}


def quote_names(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Quote the names in a shape such as (n_features_in_,), which would be links otherwise."""
    lines[:] = [
        re.sub(r"(?<![`\w])(\w+_)(?=[,)])", r"`\1`", line) if " : " in line else line
        for line in lines
    ]


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a short name of a docstring to its page; words that are not ours stay code."""
    target = node["reftarget"]
    if node["refdomain"] != "py" or target.startswith("pipeline."):
        return None
    name = PUBLIC.get(target.partition(".")[0])
    if name is None:
        return contnode
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)


# ---- the gallery: its examples run here, one after the other, and share the cache in memory

EXAMPLES = [
    "plot_first_classifier.py",
    "plot_columns.py",
    "plot_layers.py",
    "plot_ngrams.py",
    "plot_long_texts.py",
    "plot_many_classes.py",
    "plot_imbalance.py",
    "plot_several_labels.py",
    "plot_another_language.py",
    "plot_own_classifier.py",
    "plot_calibration.py",
    "plot_label_errors.py",
    "plot_few_labels.py",
    "plot_explain.py",
    "plot_report.py",
    "plot_tokens.py",
    "plot_fine_tuning.py",
    "plot_skrub.py",
    "plot_optuna.py",
    "plot_mlflow.py",
    "plot_dask.py",
    "plot_fastapi.py",
]


KEPT: list[Figure] = []


def scrape(block: Any, variables: dict[str, Any], conf: dict[str, Any]) -> str:
    """Keep the figure that a block ends with, and that pyplot does not know."""
    figure = variables["example_globals"].get("___")
    if not isinstance(figure, Figure) or figure in KEPT:
        return ""
    KEPT.append(figure)
    path = next(variables["image_path_iterator"])
    figure.savefig(path, dpi=160)
    return figure_rst([path], conf["src_dir"])


sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "generated/gallery",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("pipeline",),
    "within_subsection_order": EXAMPLES.index,
    "image_scrapers": ("matplotlib", scrape),
    "ignore_repr_types": "Figure|Axes|Text",
    "remove_config_comments": True,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "matplotlib_animations": False,
}

# ---- pages

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "Frozen BERT"},
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"api": [], "generated/commands": []}

_PICTURE = re.compile(
    r'<picture>.*?srcset="([^"]*)".*?alt="([^"]*)" src="([^"]*)".*?</picture>', re.DOTALL
)
# files outside docs that are pages of the site; links to others download them
PAGES = {
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
    "CONTRIBUTING.md": "contributing",
    "ARCHITECTURE.md": "architecture",
    "benchmarks/README.md": "benchmarks",
    "data/README.md": "data",
}


def for_site(text: str, page: Path, place: Path) -> str:
    """Return a page with its pictures and links as the site has them, at another place."""

    def link(match: re.Match) -> str:
        target, mark, anchor = match[2].partition("#")
        path = (page.parent / target).resolve()
        if not target or ":" in target:
            return match[0]
        if str(path.relative_to(TOP)) in PAGES:
            path = TOP / f"docs/generated/{PAGES[str(path.relative_to(TOP))]}.md"
        elif path.is_dir():
            return match[1]
        scheme = "" if path.is_relative_to(TOP / "docs") else "path:"
        return f"[{match[1]}]({scheme}{os.path.relpath(path, place.parent)}{mark}{anchor})"

    text = re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)
    return _PICTURE.sub(r"![\2](\3){.only-light .wide}\n![\2](\1){.only-dark .wide}", text)


def prepare(app: Any, name: str, source: list[str]) -> None:
    """Prepare a page of the guide when it is read."""
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md" and page.parent == TOP / "docs":
        source[0] = for_site(source[0], page, page)


def write_pages(app: Any) -> None:
    """Write the pages that are not in docs, and the commands as they describe themselves."""
    folder = TOP / "docs/generated"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        place = folder / f"{page}.md"
        place.write_text(for_site((TOP / name).read_text("utf-8"), TOP / name, place), "utf-8")
    commands = folder / "commands.md"
    line = [sys.executable, "-m", "typer", "pipeline.commands.cli", "utils", "docs"]
    line += ["--name", "bert-vectorizer", "--title", "Commands", "--output", str(commands)]
    subprocess.run(line, check=True, capture_output=True)
    text = commands.read_text("utf-8")  # its first list cuts each description after six words
    text = re.sub(r"\*\*Commands\*\*:.*?(?=^## )", "", text, flags=re.MULTILINE | re.DOTALL)
    commands.write_text(text, "utf-8")


def write_index(app: Any, error: Exception | None) -> None:
    """Write llms.txt with the addresses that its pages have on the site."""
    text = (TOP / "llms.txt").read_text("utf-8")
    text = re.sub(r"\(docs/examples\)", "(generated/gallery/index.html)", text)
    text = re.sub(r"\(docs/([\w-]+)\.md\)", r"(\1.html)", text)
    for name, page in PAGES.items():
        text = text.replace(f"({name})", f"(generated/{page}.html)")
    (Path(app.outdir) / "llms.txt").write_text(text, "utf-8")


def setup(app: Any) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", prepare)
    app.connect("autodoc-process-docstring", quote_names, priority=400)  # before numpydoc
    app.connect("missing-reference", resolve)
    app.connect("build-finished", write_index)
