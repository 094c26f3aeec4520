"""Follows an experiment of a coordinator until it has ended, then prints what was chosen.

    python experiments/python/follow.py 127.0.0.1:7477 quickstart
"""

import sys

import qslm_client as qslm


def main(address, experiment):
    with qslm.connect(address) as coordinator:
        for status in coordinator.watch(experiment):
            print(f"{status.stage:12} {status.measured:6} measured, {status.front:3} on the front", file=sys.stderr)
        candidates = sum(1 for _ in coordinator.candidates(experiment))
        chosen = coordinator.front(experiment)["chosen"]
        print(f"{qslm.state(status)}: {candidates} candidates")
        if chosen:
            print(f"chosen: {chosen['candidate'][:12]}, {chosen['saving']:.2%} saved, {chosen['quality_loss']:+.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
