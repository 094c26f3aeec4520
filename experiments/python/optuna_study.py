"""Writes an Optuna study with two objectives, as people have them who searched before: `qslm import optuna` reads it.

    python experiments/python/optuna_study.py study.db
"""

import sys

import optuna


def objective(trial):
    """A formula in place of a measurement: narrower widths save more and lose more."""
    bits = [trial.suggest_categorical(f"block{block}", [2, 3, 4, 6, 8]) for block in range(4)]
    saving = 1 - sum(bits) / (32 * len(bits))
    quality_loss = sum(2.0 ** -(2 * width) for width in bits)
    return quality_loss, saving


def main(path):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="by-block",
        storage=f"sqlite:///{path}",
        directions=["minimize", "maximize"],
        sampler=optuna.samplers.NSGAIISampler(seed=1, population_size=10),
    )
    study.optimize(objective, n_trials=30)


if __name__ == "__main__":
    main(*sys.argv[1:])
