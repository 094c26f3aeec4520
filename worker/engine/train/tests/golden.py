"""Gradients of small SpikeGPT networks in float64, by PyTorch's autograd: writes `golden.safetensors` beside this file.

Needs torch and safetensors: `python golden.py TINY`, where TINY is the folder with the tiny model (`model.pth` and
`expected.safetensors`, as in `worker/engine/tests/data/tiny`). Nothing here is shared with the code under test: time is a
Python loop, WKV and the reset of LIF are differentiated by autograd, and only the step has a gradient of its own, the
ATan surrogate 1 / (1 + (pi (h - 1))^2).

The small network comes with all of its gradients; of the tiny one, row and column sums are kept. A spike that is a hair
from the threshold may fire in 32 bits and not in 64: seeds are tried until no sum is that close, and the distance is
printed.
"""

import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

V, D, L, BATCH, TIME = 24, 16, 2, 3, 12
MARGIN = 3e-4


class Step(torch.autograd.Function):
    @staticmethod
    def forward(context, h):
        context.save_for_backward(h)
        return (h >= 1).to(h.dtype)

    @staticmethod
    def backward(context, gradient):
        (h,) = context.saved_tensors
        return gradient / (1 + (math.pi * (h - 1)) ** 2)


class Network:
    def __init__(self, weights, blocks, binary=True, detached=False):
        self.w, self.blocks, self.binary, self.detached, self.margin = weights, blocks, binary, detached, math.inf

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def mix(self, name, y):
        before, m = F.pad(y, (0, 0, 1, -1)), self.w[name].flatten()
        return m * y + (1 - m) * before

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T

    def lif(self, x):
        v, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = v + (x[:, t] - v) / 2
            self.margin = min(self.margin, (h - 1).abs().min().item())
            s = Step.apply(h)
            out.append(s)
            v = (1 - (s.detach() if self.detached else s)) * h
        return torch.stack(out, 1)

    def wkv(self, name, k, v):
        w, u = -torch.exp(self.w[f"{name}.time_decay"]), self.w[f"{name}.time_first"]
        p, q = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
        o, out = torch.full_like(k[:, 0], -1e38), []
        for t in range(k.shape[1]):
            m = torch.maximum(o, u + k[:, t])
            e1, e2 = torch.exp(o - m), torch.exp(u + k[:, t] - m)
            out.append((e1 * p + e2 * v[:, t]) / (e1 * q + e2))
            m = torch.maximum(w + o, k[:, t])
            e1, e2 = torch.exp(w + o - m), torch.exp(k[:, t] - m)
            p, q, o = e1 * p + e2 * v[:, t], e1 * q + e2, m
        return torch.stack(out, 1)

    def block(self, i, x):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        y = self.norm(f"blocks.{i}.ln1", x)
        k, v, r = (
            self.linear(f"{att}.{name}", self.mix(f"{att}.time_mix_{name[0]}", y)) for name in ("key", "value", "receptance")
        )
        x = x + self.lif(self.linear(f"{att}.output", torch.sigmoid(r) * self.wkv(att, k, v)))
        y = self.norm(f"blocks.{i}.ln2", x)
        k = torch.relu(self.linear(f"{ffn}.key", self.mix(f"{ffn}.time_mix_k", y))) ** 2
        r = torch.sigmoid(self.linear(f"{ffn}.receptance", self.mix(f"{ffn}.time_mix_r", y)))
        return x + self.lif(r * self.linear(f"{ffn}.value", k))

    def logits(self, tokens):
        x = self.w["emb.weight"][tokens]
        if self.binary:
            x = (x >= 0).to(x.dtype)
        x = self.norm("blocks.0.ln0", x)
        for i in range(self.blocks):
            x = self.block(i, x)
        return self.linear("head", self.norm("ln_out", x))


def random_weights(generator):
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    weights = {"emb.weight": normal(V, D), "head.weight": normal(V, D) / D**0.5}
    for name in ["blocks.0.ln0", "ln_out"] + [f"blocks.{i}.ln{n}" for i in range(L) for n in (1, 2)]:
        weights[f"{name}.weight"] = 1 + 0.1 * normal(D)
        weights[f"{name}.bias"] = 0.1 * normal(D)
    for i in range(L):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        weights[f"{att}.time_decay"] = torch.linspace(-4, 1, D)
        weights[f"{att}.time_first"] = 0.5 * normal(D)
        for name in [f"{att}.time_mix_{m}" for m in "kvr"] + [f"{ffn}.time_mix_{m}" for m in "kr"]:
            weights[name] = torch.rand(1, 1, D, generator=generator)
        for name in ("key", "value", "receptance", "output"):
            weights[f"{att}.{name}.weight"] = 2.5 * normal(D, D) / D**0.5
        weights[f"{ffn}.key.weight"] = 1.3 * normal(4 * D, D) / D**0.5
        weights[f"{ffn}.value.weight"] = 1.5 * normal(D, 4 * D) / D**0.5
        weights[f"{ffn}.receptance.weight"] = normal(D, D) / D**0.5
    return weights


def leaves(weights):
    return {name: value.double().requires_grad_() for name, value in weights.items()}


def cross_entropy(network, tokens):
    return F.cross_entropy(network.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def distillation(network, teacher, tokens):
    with torch.no_grad():
        target = teacher.logits(tokens[:, :-1]).log_softmax(-1)
    given = network.logits(tokens[:, :-1]).log_softmax(-1)
    return (target.exp() * (target - given)).sum(-1).mean()


def gradients(network, loss):
    names = [name for name, value in network.w.items()]
    found = torch.autograd.grad(loss, [network.w[name] for name in names], allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found) if gradient is not None}


def small(seed):
    """Everything of the small network, and the least distance of a sum from the threshold."""
    generator = torch.Generator().manual_seed(seed)
    weights = random_weights(generator)
    teacher_weights = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    tokens = torch.randint(0, V, (BATCH, TIME + 1), generator=generator)
    x, g = (torch.randn(1, TIME, D, generator=generator) for _ in range(2))
    out = {"tokens": tokens.int(), "block.x": x[0], "block.g": g[0]}
    out |= {f"weights.{name}": value for name, value in weights.items()}
    out |= {f"teacher.{name}": value for name, value in teacher_weights.items()}
    teacher = Network({name: value.double() for name, value in teacher_weights.items()}, L)
    margins, losses = [], {}

    def case(name, network, loss):
        for parameter, gradient in gradients(network, loss).items():
            out[f"{name}.{parameter}"] = gradient.float()
        losses[name] = loss.item()
        margins.append(network.margin)

    for name, options in {"ce": {}, "detached": {"detached": True}, "real": {"binary": False}}.items():
        network = Network(leaves(weights), L, **options)
        case(name, network, cross_entropy(network, tokens))
    network = Network(leaves(weights), L)
    case("kl", network, distillation(network, teacher, tokens))
    margins.append(teacher.margin)
    # A block on its own: the gradient of <g, block(x)>, also in what enters it.
    network, entering = Network(leaves(weights), L), x.double().requires_grad_()
    network.w["block.x"] = entering
    case("block", network, (network.block(1, entering) * g.double()).sum())
    out["block.dx"] = out.pop("block.block.x")
    out["losses"] = torch.tensor([losses[name] for name in ("ce", "detached", "real", "kl")], dtype=torch.float64)
    return out, min(margins), losses


def tiny(folder):
    """Row and column sums of the gradients of the tiny model under cross entropy."""
    weights = torch.load(folder / "model.pth", weights_only=True)
    tokens = load_file(folder / "expected.safetensors")["tokens"].long()
    network = Network(leaves(weights), 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")))
    loss = cross_entropy(network, tokens)
    out = {"tiny.loss": torch.tensor([loss.item()], dtype=torch.float64)}
    for name, gradient in gradients(network, loss).items():
        rows = gradient.reshape(-1, gradient.shape[-1])
        out[f"tiny.{name}.rows"], out[f"tiny.{name}.columns"] = rows.sum(1).float(), rows.sum(0).float()
        out[f"tiny.{name}.norm"] = gradient.norm().float().reshape(1)
    return out, network.margin, loss.item()


def main():
    for seed in range(1000):
        found, margin, losses = small(seed)
        if margin > MARGIN:
            break
    print(f"small: seed {seed}, least |h - 1| {margin:.1e}, losses {losses}")
    more, margin, loss = tiny(pathlib.Path(sys.argv[1]))
    print(f"tiny: least |h - 1| {margin:.1e}, loss {loss}")
    path = pathlib.Path(__file__).with_name("golden.safetensors")
    save_file({name: value.contiguous() for name, value in (found | more).items()}, path)
    print(f"{path.name}: {path.stat().st_size} bytes")


main()
