"""Where the time of encoding goes, operator by operator: what stands between the packed encoder and
the matrix-product limit.

    python -m benchmarks.profile_encode [--texts sst2.csv]

torch's profiler over one warm `transform` on a CPU, mean of the last layer of the default model:
2,000 SST-2 sentences with --texts, else generated short texts. Profiling itself slows small
operators down a little. Writes results/profile_encode.json.
"""

import argparse
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.results_file import write_result
from benchmarks.workloads import generated, sst2_sentences
from pipeline import BertVectorizer

# What an operator does in the packed forward; the rest is Python, slicing and pooling.
PARTS = {
    "linear layers": ("aten::mm", "aten::addmm_", "mkldnn::_linear_pointwise"),
    "attention": (
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::bmm",
        "aten::copy_",
        "aten::aminmax",
        "aten::exp_",
        "aten::sum",
        "aten::div",
        "aten::_softmax",
    ),
    "biases and residuals": ("aten::add_",),
    "GELU": ("aten::gelu_",),
    "LayerNorm": ("aten::native_layer_norm",),
}


def main() -> None:
    """Profile and write the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path)
    arguments = parser.parse_args()
    vectorizer = BertVectorizer(cache=None).fit(["warm"])
    texts = (
        sst2_sentences(arguments.texts, 2000)
        if arguments.texts
        else generated("short", 2000, vectorizer)
    )
    vectorizer.transform(texts[:500])
    with profile(activities=[ProfilerActivity.CPU]) as found:
        vectorizer.transform(texts)
    micros = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(micros.values())
    rows = [
        {"part": part, "share": sum(micros.get(op, 0) for op in ops) / total}
        for part, ops in PARTS.items()
    ]
    rows.append({"part": "everything else", "share": 1 - sum(row["share"] for row in rows)})
    for row in rows:
        print(f"{row['part']:24} {row['share']:.1%}")
    write_result("profile_encode", rows)


if __name__ == "__main__":
    main()
