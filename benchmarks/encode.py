"""Time encoding, from a list of texts to an array: ours, sentence-transformers, and the matrix
products that neither can avoid.

    python -m benchmarks.encode [--texts sst2.csv] [--device cuda] [--threads 2] [--rounds 5]
    python -m benchmarks.encode --texts sst2.csv --sweep

One process, the same model files, threads and precision, one result (mean of the last layer,
checked before anything is timed); the contenders take turns, and every round begins with another
one. The limit is the time of the encoder's linear layers as bare matrix products, for as many
tokens at their own shapes, by MKL or oneDNN, whichever is faster for a shape, plus the products
inside attention at the same FLOP/s. Ours and the limit may run in --dtype bfloat16;
sentence-transformers stays in float32 on the CPU. The models are the default one and a bert-base
with random weights. --texts has the columns text, label and split. Writes results/encode.json
(encode_bfloat16.json), with --device cuda encode_cuda.json: there tokenize_s and forward_s are the
two halves of ours, one after the other. --sweep times ours over batch_tokens alone and writes
results/batch_tokens.json.
"""

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.results_file import spread, write_result
from benchmarks.workloads import LENGTHS, generated, make_bert_base, minilm, sst2_sentences
from pipeline import BertVectorizer
from pipeline.bert.linear import packed_rows

MODELS = ("minilm", "bert-base")
Product = Callable[[torch.Tensor], torch.Tensor]
# What depends on the device: number of texts (by model and workload), batch sizes to choose from,
# the type, rows of the matrix
# products, budgets of the sweep.
N_TEXTS = {
    "cpu": {
        "minilm": {"sst2": 2000, "short": 2000, "mixed": 1000, "long": 200},
        "bert-base": {"sst2": 250, "short": 250, "mixed": 100, "long": 30},
    },
    # bert-base fewer: sentence-transformers at its default batch size takes a minute for 20,000
    "cuda": {
        "minilm": {"sst2": 20_000, "short": 20_000, "mixed": 20_000, "long": 4000},
        "bert-base": {"sst2": 8000, "short": 8000, "mixed": 8000, "long": 1600},
    },
}
ST_BATCH_SIZES = {"cpu": (8, 16, 32, 64, 128), "cuda": (32, 64, 128, 256, 512, 1024)}
DTYPES = {"cpu": "float32", "cuda": "float16"}
PRODUCT_ROWS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 16384, 65536)}
BATCH_TOKENS = {"cpu": (512, 1024, 2048, 4096, 8192), "cuda": (8192, 16384, 32768, 65536, 131072)}


class MatrixProducts:
    """The linear layers of an encoder as bare matrix products: no bias, no attention, no
    activation. On the CPU each shape takes the faster of MKL's and oneDNN's, the latter with the
    matrix laid out before.
    """

    def __init__(self, config: dict[str, int], device: str, dtype: torch.dtype) -> None:
        self.layers, self.d, self.f = (
            config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
        )
        self.device, self.dtype = device, dtype
        self.most = max(PRODUCT_ROWS[device])
        self.out: dict[int, torch.Tensor] = {}  # width -> where results go
        self.best: dict[str, tuple[int, str]] = {}  # shape -> rows at a time, and whose product
        self.products: list[list[tuple[Product, int, int]]] = [[] for _ in range(self.layers)]
        for n_in, n_out in (
            (self.d, 3 * self.d),
            (self.d, self.d),
            (self.d, self.f),
            (self.f, self.d),
        ):
            kinds: dict[str, Callable[[torch.Tensor], Product]] = {"blas": self._blas}
            if device == "cpu" and packed_rows(torch.device("cpu"), dtype):
                kinds["onednn"] = self._onednn
            weights = [self._new(n_out, n_in) / n_in**0.5 for _ in range(self.layers)]
            x = self._new(self.most, n_in)
            seconds = {
                (rows, kind): min(
                    timed(partial(_by_rows, make(weights[0]), x, rows)) for _ in "two"
                )
                for kind, make in kinds.items()
                for rows in PRODUCT_ROWS[device]
            }
            rows, kind = min(seconds, key=lambda choice: seconds[choice])
            self.best[f"{n_in} x {n_out}"] = rows, kind
            for layer, weight in zip(self.products, weights, strict=True):
                layer.append((kinds[kind](weight), n_in, rows))

    def prepare(self, n_tokens: int) -> Callable[[], None]:
        """Return what runs all layers over ``n_tokens`` rows."""
        x = {n_in: self._new(min(n_tokens, self.most), n_in) for n_in in {self.d, self.f}}

        def run() -> None:
            for start in range(0, n_tokens, self.most):
                n = min(self.most, n_tokens - start)
                for layer in self.products:
                    for product, n_in, rows in layer:
                        _by_rows(product, x[n_in][:n], rows)

        return run

    def _blas(self, weight: torch.Tensor) -> Product:
        out = self.out.setdefault(len(weight), self._new(self.most, len(weight)))
        return lambda x: torch.mm(x, weight.t(), out=out[: len(x)])

    def _onednn(self, weight: torch.Tensor) -> Product:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def flop(self, lengths: np.ndarray) -> tuple[int, int]:
        """Return the floating point operations of texts of these lengths: in the linear layers, and
        inside attention.
        """
        linear = int(lengths.sum()) * self.layers * (8 * self.d * self.d + 4 * self.d * self.f)
        return linear, int((lengths**2).sum()) * self.layers * 4 * self.d

    def _new(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, dtype=self.dtype)


def _by_rows(product: Product, x: torch.Tensor, rows: int) -> None:
    for part in torch.split(x, rows):
        product(part)


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of one call, with the garbage collector off and the accelerator waited
    for.
    """
    wait: Callable[[], None] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    gc.collect()
    gc.disable()
    try:
        wait()
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start
    finally:
        gc.enable()


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every contender once per round; each round begins with the next one."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for _ in range(rounds):
        for name in names:
            seconds[name].append(timed(contenders[name]))
        names = names[1:] + names[:1]
    return seconds


def sentence_transformer(folder: Path, device: str) -> Any:
    """Load the same files in sentence-transformers, with mean pooling and without the step that
    normalises.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(folder), max_seq_length=512)
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    model = SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device=device)
    return model.half() if device == "cuda" else model


def same_result(ours: np.ndarray, theirs: np.ndarray, dtype: str) -> dict[str, float]:
    """Return how far the two results are from each other; stop where that is too far."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    found = {
        "max_difference": np.abs(ours - theirs).max(),
        "min_cosine": ((ours * theirs).sum(axis=1) / norms).min(),
    }
    exact = dtype == "float32"
    if not (found["max_difference"] <= 1e-5 if exact else found["min_cosine"] >= 0.9999):
        raise RuntimeError(f"ours and sentence-transformers give different vectors: {found}")
    return found


def compare(
    folder: Path, workloads: dict[str, list[str]], device: str, dtype: str, rounds: int
) -> Iterator[dict[str, Any]]:
    """Time ours, sentence-transformers as it comes and at its best batch size, and the matrix
    products; a row per workload.
    """
    ours = vectorizer(folder, device, dtype)
    theirs = partial(
        sentence_transformer(folder, device).encode, show_progress_bar=False, convert_to_numpy=True
    )
    products = MatrixProducts(
        json.loads((folder / "config.json").read_text()), device, getattr(torch, dtype)
    )
    for workload, texts in workloads.items():
        lengths = np.minimum(ours.count_tokens(texts)["n_tokens"].to_numpy(), 512)
        # and everything is warm
        found = same_result(ours.transform(texts), theirs(texts, batch_size=32), dtype)
        sample = texts[:: max(1, len(texts) // (500 if device == "cpu" else 2500))]
        best = min(
            ST_BATCH_SIZES[device], key=lambda size: timed(partial(theirs, sample, batch_size=size))
        )
        contenders: dict[str, Callable[[], object]] = {
            "ours": partial(ours.transform, texts),
            "st_default": partial(theirs, texts, batch_size=32),
            "products": products.prepare(int(lengths.sum())),
        }
        if best != 32:
            contenders["st_best"] = partial(theirs, texts, batch_size=best)
        if device == "cuda":
            bert = ours._bert()
            contenders |= {
                "tokenize": partial(bert.plan, texts),
                "forward": partial(bert.embed, bert.plan(texts)),
            }
        seconds = take_turns(contenders, rounds)
        seconds.setdefault("st_best", seconds["st_default"])
        linear, attention = products.flop(lengths)
        limit = median(seconds["products"]) * (1 + attention / linear)
        row: dict[str, Any] = {
            "workload": workload,
            "n_texts": len(texts),
            "n_tokens": int(lengths.sum()),
            **found,
        }
        row |= {"st_best_batch_size": best, "products": products.best}
        row |= {"gflop_per_s": linear / median(seconds["products"]) / 1e9, "limit_s": limit}
        row |= {"share_of_limit": limit / median(seconds["ours"])}
        row |= {f"{name}_s": spread(values) for name, values in seconds.items()}
        for name in ("ours", "st_default", "st_best"):
            row[f"{name}_tokens_per_s"] = round(row["n_tokens"] / median(seconds[name]))
        row["limit_tokens_per_s"] = round(row["n_tokens"] / limit)
        for peer in ("st_default", "st_best"):
            row[f"{peer}_over_ours"] = median(seconds[peer]) / median(seconds["ours"])
            row[f"{peer}_over_ours_by_round"] = spread(
                [a / b for a, b in zip(seconds[peer], seconds["ours"], strict=True)]
            )
        yield row


def sweep(
    folder: Path, workloads: dict[str, list[str]], device: str, dtype: str, rounds: int
) -> Iterator[dict[str, Any]]:
    """Time ours over ``batch_tokens``; a row per workload and budget."""
    vectorizers = {
        budget: vectorizer(folder, device, dtype, batch_tokens=budget)
        for budget in BATCH_TOKENS[device]
    }
    for workload, texts in workloads.items():
        n_tokens = int(
            vectorizers[BATCH_TOKENS[device][0]]
            .count_tokens(texts)["n_tokens"]
            .clip(upper=512)
            .sum()
        )
        runs: dict[str, Callable[[], object]] = {
            str(b): partial(v.transform, texts) for b, v in vectorizers.items()
        }
        for run in runs.values():
            run()
        for budget, values in take_turns(runs, rounds).items():
            row = {
                "workload": workload,
                "n_texts": len(texts),
                "n_tokens": n_tokens,
                "batch_tokens": int(budget),
            }
            yield {
                **row,
                "ours_s": spread(values),
                "ours_tokens_per_s": round(n_tokens / median(values)),
            }


def vectorizer(folder: Path, device: str, dtype: str, **parameters: Any) -> BertVectorizer:
    """Return ours, fitted: mean of the last layer, nothing remembered."""
    parameters |= {"device": device, "dtype": dtype}
    made = BertVectorizer(folder, pooling="mean", layers=-1, cache=None, **parameters)
    made.fit(["A quiet, lovely film."])
    return made


def main() -> None:
    """Time everything, print a table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--texts", type=Path, help="CSV of SST-2; without it the workload sst2 is left out"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="of ours and of the limit; default float32, on CUDA float16",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="for torch and the tokenizer; default torch's",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", choices=["sst2", *LENGTHS])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sweep", action="store_true", help="ours alone, over batch_tokens")
    parser.add_argument(
        "--n-texts",
        type=int,
        help="a trial: at most so many texts per workload, and nothing is written",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["RAYON_NUM_THREADS"] = str(
        arguments.threads
    )  # read when the tokenizer first works in parallel
    names = arguments.workloads or (["sst2", "mixed"] if arguments.sweep else ["sst2", *LENGTHS])
    if "sst2" in names and arguments.texts is None:
        print("sst2 is left out: no file is given with --texts")
    dtype = arguments.dtype or DTYPES[arguments.device]
    result = "batch_tokens" if arguments.sweep else "encode"
    result += "" if arguments.device == "cpu" else "_cuda"
    result += "" if dtype == DTYPES[arguments.device] else f"_{dtype}"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for model in arguments.models:
            folder = minilm() if model == "minilm" else Path(temporary)
            if model == "bert-base":
                make_bert_base(folder)
            counter, workloads = vectorizer(folder, arguments.device, dtype), {}
            for name in names:
                n_texts = min(N_TEXTS[arguments.device][model][name], arguments.n_texts or 10**9)
                if name != "sst2":
                    workloads[name] = generated(name, n_texts, counter)
                elif arguments.texts is not None:
                    workloads[name] = sst2_sentences(arguments.texts, n_texts)
            measure = sweep if arguments.sweep else compare
            for row in measure(folder, workloads, arguments.device, dtype, arguments.rounds):
                rows.append({"model": model, **row})
                print(json.dumps(rows[-1], default=float), flush=True)
                if (
                    arguments.device == "cuda" and not arguments.n_texts
                ):  # stays there if a later row fails
                    write_result(result, rows, repeats=arguments.rounds)
    print(
        pd.DataFrame(
            [
                {key: value for key, value in row.items() if not isinstance(value, dict)}
                for row in rows
            ]
        ).T.to_string()
    )
    if not arguments.n_texts:
        write_result(result, rows, repeats=arguments.rounds)


if __name__ == "__main__":
    main()
