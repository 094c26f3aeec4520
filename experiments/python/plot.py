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
    candidates = candidates[(candidates.stage != "sensitivity") & (candidates.is_float == 0)]
    figure, axes = plt.subplots(figsize=(8, 5))
    for stage, group in candidates.groupby("stage", sort=False):
        axes.scatter(100 * group.saving, 100 * group.quality_loss, s=14, alpha=0.7, label=f"{stage} ({len(group)})")
    # For every saving the least loss of all that save as much: steps, not a line through what nobody measured.
    front = candidates[candidates.on_front == 1].sort_values("saving")
    axes.step(100 * front.saving, 100 * front.quality_loss, where="pre", color="black", lw=1, label="front")
    chosen = candidates[candidates.chosen == 1]
    axes.scatter(100 * chosen.saving, 100 * chosen.quality_loss, s=160, marker="*", color="tab:red", label="chosen")
    allowed = candidates[candidates.meets_constraints == 1]
    if not allowed.empty:
        axes.axhline(100 * allowed.quality_loss.max(), color="tab:red", lw=0.8, ls="--", label="most that is allowed here")
        top = 100 * 5 * max(allowed.quality_loss.max(), 0.002)
        shown = candidates[100 * candidates.quality_loss <= top]
        axes.set(ylim=(None, top), xlim=(100 * shown.saving.min() - 1, 100 * shown.saving.max() + 1))
    axes.set(xlabel="memory saved (%)", ylabel="quality lost (%)")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=150, bbox_inches="tight")
    best = allowed.nlargest(3, "trade_off")
    print(best[["candidate", "saving", "quality_loss", "trade_off"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
