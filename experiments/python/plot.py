"""Plots an export: memory saved against loss of quality, by the stage that proposed each candidate.

    qslm export quickstart --store runs/quickstart.redb --out quickstart.parquet
    python experiments/python/plot.py quickstart.parquet quickstart.png
"""

import sys

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(parquet, picture):
    candidates = pd.read_parquet(parquet)
    candidates = candidates[candidates.stage != "sensitivity"]
    figure, axes = plt.subplots(figsize=(8, 5))
    for stage, group in candidates.groupby("stage", sort=False):
        axes.scatter(100 * group.saving, 100 * group.quality_loss, s=14, alpha=0.7, label=f"{stage} ({len(group)})")
    axes.set(xlabel="memory saved (%)", ylabel="quality lost (%)", ylim=(None, 15))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    best = candidates[candidates.quality_loss <= 0.03].nlargest(3, "saving")
    print(best[["candidate", "saving", "quality_loss", "energy_joules_per_token"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
