"""Lets a sampler of Optuna search an experiment whose strategy is `external`, and a pruner of Optuna prune it. With `--front`
the sampler sees loss and bytes as two objectives in place of their weighted sum, and nothing is pruned.

    qslm submit spec.toml --set strategy.kind=external
    python experiments/python/optuna_search.py 127.0.0.1:7477 EXPERIMENT --study study.db

A generation is asked of the sampler, told to the coordinator, and told to the study once all of it is settled, so that what
is proposed next does not depend on who is faster. Asked again after an interruption, of this program or of the coordinator,
it goes on: the study has what was asked, and to tell it once more changes nothing.
"""

import argparse
import sys
import time

import grpc
import optuna
import qslm_client as qslm

COMPLETE, PRUNED, FAILED = (optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL"))
# What becomes of a call to a coordinator that is being started again.
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def patiently(call, patience=60.0):
    """What a call gives, tried again while the coordinator is away."""
    until = time.monotonic() + patience
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in AWAY or time.monotonic() > until:
                raise
            time.sleep(0.5)


def groups_of(space, tier):
    """The groups of a tier by the names of their parameters."""
    (found,) = (known for known in space.tiers if known.name == tier)
    return {f"{group.axis} {group.name}": group for group in found.groups}


def asked(study, generation, size, groups):
    """The trials of a generation: those that were asked for before, and the rest."""
    known = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("generation") == generation]
    trials = [optuna.trial.Trial(study, trial._trial_id) for trial in known]
    while len(trials) < size:
        trial = study.ask()
        for name, group in groups.items():
            trial.suggest_int(name, 0, len(group.levels) - 1)
        trial.set_user_attr("generation", generation)
        trials.append(trial)
    return trials


def words(space, groups, trial):
    """A candidate in the words of the levels that it takes."""
    levels = (group.levels[trial.params[name]].words for name, group in groups.items())
    return " ".join([space.base, *levels])


class Generation:
    """A generation that is being measured."""

    def __init__(self, coordinator, experiment, number, trials, given, finished):
        self.coordinator, self.experiment, self.number = coordinator, experiment, number
        self.trials, self.given, self.finished = trials, given, finished
        # By place: the last step that the pruner was shown, whether it asked to prune, and how it ended.
        self.shown, self.cut, self.ends = {}, set(), {}

    def value(self, quality_loss, candidate):
        """What the sampler minimises: the quality that is lost, and the bytes that are kept."""
        kept = 1 - candidate.saving
        return (quality_loss, kept) if self.given.front else quality_loss + self.given.weight * kept

    def follow(self):
        """Takes what is new until all is settled, or the connection breaks."""
        for candidate in self.coordinator.results(self.experiment, self.number):
            trial, fate = self.trials[candidate.place], qslm.fate(candidate)
            if trial.number not in self.finished:
                self.show(trial, candidate)
            if fate == "measured":
                self.ends[candidate.place] = self.value(candidate.measured.quality_loss, candidate), COMPLETE
            elif fate in ("pruned", "failed"):
                self.ends[candidate.place] = None, PRUNED if fate == "pruned" else FAILED

    def show(self, trial, candidate):
        """Shows the pruner the prefixes of shards that are new, until it asks to prune."""
        place = candidate.place
        for prefix in [] if self.given.front else candidate.prefixes:
            if place in self.cut or prefix.shards <= self.shown.get(place, 0) or not prefix.HasField("quality_loss"):
                continue
            self.shown[place] = prefix.shards
            trial.report(self.value(prefix.quality_loss, candidate), prefix.shards)
            if trial.should_prune():
                self.cut.add(place)
                # It may have been measured meanwhile: then it is a result like others.
                self.coordinator.prune(self.experiment, self.number, [place])

    def tell(self, study):
        """Tells the study, in the order in which it was asked."""
        if len(self.ends) < len(self.trials):
            sys.exit(f"{self.experiment} was cancelled; resume it, and start this again")
        for place, trial in enumerate(self.trials):
            value, state = self.ends[place]
            if trial.number not in self.finished:
                # One that is pruned has the last value that was reported of it.
                study.tell(trial.number, value, state=state)


def sampler_of(given, number):
    """The sampler of a generation, so that one who goes on after an interruption draws the same."""
    seed = given.seed + number
    if given.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=given.size, seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=given.size)


def study_of(given):
    """The study, new or gone on with."""
    storage = given.study and f"sqlite:///{given.study}"
    named = dict(storage=storage, study_name=given.experiment, load_if_exists=True)
    if given.front:
        return optuna.create_study(directions=["minimize", "minimize"], **named)
    return optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=given.size), **named)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("experiment")
    parser.add_argument("--study", help="file that the study is kept in (default: kept in memory)")
    parser.add_argument("--tier", default="block", choices=["global", "block", "module", "matrix"])
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--size", type=int, default=8, help="candidates of a generation")
    parser.add_argument("--weight", type=float, default=0.1, help="quality that all of the float model's bytes are worth")
    parser.add_argument("--sampler", default="tpe", choices=["tpe", "nsga2"])
    parser.add_argument("--front", action="store_true", help="two objectives, loss and bytes, in place of their sum")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = study_of(given)
    with qslm.connect(given.address) as coordinator:
        space = patiently(lambda: coordinator.space(given.experiment))
        groups = groups_of(space, given.tier)
        for number in range(1, given.generations + 1):
            study.sampler = sampler_of(given, number)
            trials = asked(study, number, given.size, groups)
            finished = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
            if all(trial.number in finished for trial in trials):
                continue
            candidates = [words(space, groups, trial) for trial in trials]
            last = number == given.generations
            patiently(lambda: coordinator.tell(given.experiment, number, candidates, last))
            generation = Generation(coordinator, given.experiment, number, trials, given, finished)
            patiently(generation.follow)
            generation.tell(study)
            counts = [sum(state == end for _, end in generation.ends.values()) for state in (COMPLETE, PRUNED, FAILED)]
            print("generation {}: {} measured, {} pruned, {} failed".format(number, *counts), flush=True)
        if given.front:
            print(f"on the front: {len(study.best_trials)} of {len(study.trials)}")
        else:
            print(f"best: {study.best_value:.4f} with {study.best_trial.params}")


if __name__ == "__main__":
    main()
