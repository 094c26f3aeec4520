"""A thin client of a qslm coordinator.

The messages and calls are those of proto/qslm/v1/qslm.proto, which is compiled when this module is imported; nothing here
has to be kept in step with it.

    import qslm_client as qslm

    with qslm.connect("127.0.0.1:7477") as coordinator:
        for status in coordinator.experiments():
            print(status.id, status.measured, qslm.state(status))
"""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc

sys.path.append(str(Path(__file__).resolve().parents[2] / "proto"))
messages, services = grpc.protos_and_services("qslm/v1/qslm.proto")


@contextmanager
def connect(address="127.0.0.1:7477"):
    """A connection to the coordinator at HOST:PORT."""
    # A front of thousands of candidates is more than the 4 MB that gRPC allows by itself.
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield Coordinator(channel)


def state(status):
    """running, finished, cancelled or paused."""
    return messages.ExperimentStatus.State.Name(status.state).lower()


def fate(candidate):
    """open, measured, pruned or failed: of a candidate that was told."""
    return messages.ToldCandidate.State.Name(candidate.state).lower()


class Coordinator:
    """What people may ask of a coordinator. Experiments are named by their id, or the beginning of it."""

    def __init__(self, channel):
        self.calls = services.ExperimentsStub(channel)

    def experiments(self):
        """The status of every experiment, in the order of submission."""
        return list(self.calls.List(messages.ListRequest()).experiments)

    def status(self, experiment):
        """The status of one experiment."""
        return self.calls.Get(messages.GetRequest(experiment=experiment))

    def watch(self, experiment):
        """The status now and after every change, until the experiment has ended."""
        yield from self.calls.Watch(messages.GetRequest(experiment=experiment))

    def front(self, experiment):
        """The front so far: `qslm front --output json`."""
        return json.loads(self.calls.Front(messages.GetRequest(experiment=experiment)).json)

    def report(self, experiment):
        """Everything that a page shows: `qslm report --format json`."""
        return json.loads(self.calls.Describe(messages.GetRequest(experiment=experiment)).json)

    def candidates(self, experiment):
        """Every measured candidate, one after the other."""
        for message in self.calls.Candidates(messages.GetRequest(experiment=experiment)):
            yield from message.candidates

    def cluster(self):
        """Workers, and what happened lately."""
        return self.calls.Cluster(messages.ClusterRequest())

    def space(self, experiment):
        """What a candidate may be: tiers of groups of levels, each with the words that say it."""
        return self.calls.Space(messages.GetRequest(experiment=experiment))

    def tell(self, experiment, number, candidates=(), last=False):
        """Tells an experiment from outside its next generation, or the same one again. It is on disk when this returns."""
        request = messages.TellRequest(experiment=experiment, number=number, candidates=candidates, last=last)
        return self.calls.Tell(request).told

    def results(self, experiment, number):
        """What becomes of the candidates of a generation: all of them now, then each that changes, until all are settled."""
        for message in self.calls.Told(messages.ToldRequest(experiment=experiment, number=number)):
            yield from message.candidates

    def prune(self, experiment, number, places):
        """Prunes candidates of a generation, for good. Gives those that are pruned; the others were measured before."""
        return list(self.calls.Prune(messages.PruneRequest(experiment=experiment, number=number, places=places)).pruned)

    def change(self, experiment, **change):
        """Sets `paused`, `cancelled` or `priority`."""
        return self.calls.Change(messages.ChangeRequest(experiment=experiment, **change))
