"""
Large tables with Dask
======================

``score_table`` labels a table of any size with a saved pipeline: in this process, in several, or on
the workers of a `Dask <https://www.dask.org>`_ cluster. After a crash the same call goes on from
where it was.
"""

import tempfile

import matplotlib.pyplot as plt
import pandas as pd
from distributed import Client, LocalCluster

from pipeline import load_reviews, make_sentiment_pipeline, save_pipeline, score_table

# %%
# The workers import this file, so what they should not do stands under ``if __name__ ==
# "__main__"``. A notebook needs no such line.

if __name__ == "__main__":
    train, test = load_reviews()
    folder = tempfile.mkdtemp()
    model = make_sentiment_pipeline().fit(train["text"], train["label"])
    path = save_pipeline(model, f"{folder}/sentiment.joblib")

# %%
# A cluster of two processes on this machine; with one that is running already, its address is
# enough, such as ``executor="tcp://10.0.0.5:8786"``. The parts that are written are the same bytes,
# whatever the executor. Small shards here, so that there are some.

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        scored = score_table(
            path, test, f"{folder}/scored", text="text", executor=client, shard_rows=64
        )
    print(f"{scored.n_rows} rows in {scored.n_parts} parts, {scored.columns}")

# %%
# The output is a folder of Parquet files, with all columns of the table.

if __name__ == "__main__":
    table = pd.read_parquet(f"{folder}/scored")
    print(table[["text", "label", "probability_positive"]].head())
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.hist(table["probability_positive"], bins=20)
    axes.set(xlabel="probability of positive", ylabel="rows")
    plt.show()
