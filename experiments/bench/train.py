"""A training step of qslm beside PyTorch: cross entropy, every parameter but the binary embedding, clipping, Adam; in turns, on the
same threads, from the same random weights and tokens.

Prints seconds per step (medians), the median ratio of pairs, and the ratio that a step would have which took no time but for its
products of 32-bit floats, these at the processor's peak; after both agreed on the losses of their first steps. PyTorch runs
products, norms, gates and the loss in its own operators, with autograd; the two scans over time (WKV and LIF) and their gradients are
compiled C++, and Adam is the fused one. `experiments/bench/train` installs what it needs and runs it. On a busy machine PyTorch's
threads wait for each other: only a quiet one compares.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.utils.cpp_extension import load_inline

SCANS = r"""
#include <torch/extension.h>
#include <ATen/Parallel.h>
#include <cmath>
#include <vector>
using torch::Tensor;
// k, v: [batch, time, channel]; w, u: [channel]. Also the running sums before each token, for the way back.
std::vector<Tensor> wkv(Tensor w, Tensor u, Tensor k, Tensor v) {
  auto y = torch::empty_like(k), ps = torch::empty_like(k), qs = torch::empty_like(k), os = torch::empty_like(k);
  const int64_t B = k.size(0), T = k.size(1), C = k.size(2);
  const float *wp = w.data_ptr<float>(), *up = u.data_ptr<float>(), *kp = k.data_ptr<float>(), *vp = v.data_ptr<float>();
  float *yp = y.data_ptr<float>(), *psp = ps.data_ptr<float>(), *qsp = qs.data_ptr<float>(), *osp = os.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> p(C), q(C), o(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(p.begin(), p.end(), 0.f); std::fill(q.begin(), q.end(), 0.f); std::fill(o.begin(), o.end(), -1e38f);
      for (int64_t t = 0; t < T; t++) {
        const int64_t at = (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          const float kc = kp[at + c], vc = vp[at + c];
          psp[at + c] = p[c]; qsp[at + c] = q[c]; osp[at + c] = o[c];
          float now = up[c] + kc, m = std::fmax(o[c], now);
          float e1 = std::exp(o[c] - m), e2 = std::exp(now - m);
          yp[at + c] = (e1 * p[c] + e2 * vc) / (e1 * q[c] + e2);
          float faded = wp[c] + o[c]; m = std::fmax(faded, kc);
          e1 = std::exp(faded - m); e2 = std::exp(kc - m);
          p[c] = e1 * p[c] + e2 * vc; q[c] = e1 * q[c] + e2; o[c] = m;
        }
      }
    }
  });
  return {y, ps, qs, os};
}
std::vector<Tensor> wkv_back(Tensor w, Tensor u, Tensor k, Tensor v, Tensor y, Tensor ps, Tensor qs, Tensor os, Tensor d) {
  const int64_t B = k.size(0), T = k.size(1), C = k.size(2);
  auto dk = torch::empty_like(k), dv = torch::empty_like(k);
  auto dws = torch::zeros({B, C}), dus = torch::zeros({B, C});
  const float *wp = w.data_ptr<float>(), *up = u.data_ptr<float>(), *kp = k.data_ptr<float>(), *vp = v.data_ptr<float>();
  const float *yp = y.data_ptr<float>(), *psp = ps.data_ptr<float>(), *qsp = qs.data_ptr<float>(), *osp = os.data_ptr<float>();
  const float *dp = d.data_ptr<float>();
  float *dkp = dk.data_ptr<float>(), *dvp = dv.data_ptr<float>(), *dwp = dws.data_ptr<float>(), *dup = dus.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> a(C), bb(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(a.begin(), a.end(), 0.f); std::fill(bb.begin(), bb.end(), 0.f);
      float *dw = dwp + b * C, *du = dup + b * C;
      for (int64_t t = T - 1; t >= 0; t--) {
        const int64_t at = (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          const float kc = kp[at + c], vc = vp[at + c], p = psp[at + c], q = qsp[at + c], o = osp[at + c], yc = yp[at + c];
          float now = up[c] + kc, m = std::fmax(o, now);
          float e1 = std::exp(o - m), e2 = std::exp(now - m), part = dp[at + c] / (e1 * q + e2);
          float of_value = part * e2, of_key = of_value * (vc - yc);
          float faded = wp[c] + o; m = std::fmax(faded, kc);
          float f1 = std::exp(faded - m), f2 = std::exp(kc - m);
          du[c] += of_key;
          dkp[at + c] = of_key + f2 * (a[c] * vc + bb[c]);
          dvp[at + c] = of_value + f2 * a[c];
          dw[c] += f1 * (a[c] * p + bb[c] * q);
          a[c] = f1 * a[c] + part * e1; bb[c] = f1 * bb[c] - part * e1 * yc;
        }
      }
    }
  });
  return {dws.sum(0), dus.sum(0), dk, dv};
}
std::vector<Tensor> lif(Tensor x) {
  auto s = torch::empty_like(x), hs = torch::empty_like(x);
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2);
  const float *xp = x.data_ptr<float>();
  float *sp = s.data_ptr<float>(), *hp = hs.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> v(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(v.begin(), v.end(), 0.f);
      for (int64_t t = 0; t < T; t++) {
        const int64_t at = (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          float h = v[c] + (xp[at + c] - v[c]) / 2, f = h >= 1.f ? 1.f : 0.f;
          hp[at + c] = h; sp[at + c] = f; v[c] = (1.f - f) * h;
        }
      }
    }
  });
  return {s, hs};
}
Tensor lif_back(Tensor h, Tensor d) {
  auto dx = torch::empty_like(d);
  const int64_t B = d.size(0), T = d.size(1), C = d.size(2);
  const float *hp = h.data_ptr<float>(), *dp = d.data_ptr<float>();
  float *xp = dx.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> g(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(g.begin(), g.end(), 0.f);
      for (int64_t t = T - 1; t >= 0; t--) {
        const int64_t at = (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          float hc = hp[at + c], away = float(M_PI) * (hc - 1.f), slope = 1.f / (1.f + away * away), stays = hc >= 1.f ? 0.f : 1.f;
          g[c] = (dp[at + c] * slope + g[c] * (stays - hc * slope)) * .5f;
          xp[at + c] = g[c];
        }
      }
    }
  });
  return dx;
}
"""


def scans():
    return load_inline("train_scans", SCANS, functions=["wkv", "wkv_back", "lif", "lif_back"],
                       extra_cflags=["-O3", "-march=native", "-ffast-math"])


def functions(scans):
    class Wkv(torch.autograd.Function):
        @staticmethod
        def forward(context, w, u, k, v):
            y, *sums = scans.wkv(w, u, k, v)
            context.save_for_backward(w, u, k, v, y, *sums)
            return y

        @staticmethod
        def backward(context, d):
            return tuple(scans.wkv_back(*context.saved_tensors, d.contiguous()))

    class Lif(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            s, h = scans.lif(x)
            context.save_for_backward(h)
            return s

        @staticmethod
        def backward(context, d):
            return scans.lif_back(*context.saved_tensors, d.contiguous())

    return Wkv.apply, Lif.apply


def random_weights(V, D, L, generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    weights = {"emb.weight": torch.randn(V, D, generator=generator), "head.weight": normal(V, D)}
    for name in ["blocks.0.ln0", "ln_out"] + [f"blocks.{i}.ln{n}" for i in range(L) for n in (1, 2)]:
        weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(D, generator=generator)
        weights[f"{name}.bias"] = 0.1 * torch.randn(D, generator=generator)
    for i in range(L):
        att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
        weights[f"{att}.time_decay"] = torch.linspace(-5, 3, D)
        weights[f"{att}.time_first"] = 0.3 * torch.randn(D, generator=generator)
        for m in "kvr":
            weights[f"{att}.time_mix_{m}"] = torch.rand(1, 1, D, generator=generator)
        for m in "kr":
            weights[f"{ffn}.time_mix_{m}"] = torch.rand(1, 1, D, generator=generator)
        for name in ("key", "value", "receptance", "output"):
            weights[f"{att}.{name}.weight"] = 2 * normal(D, D)
        weights[f"{ffn}.key.weight"] = normal(4 * D, D)
        weights[f"{ffn}.value.weight"] = normal(D, 4 * D)
        weights[f"{ffn}.receptance.weight"] = normal(D, D)
    return weights


def shifted(y):
    return F.pad(y, (0, 0, 1, -1))


class Trainer:
    def __init__(self, weights, L, wkv, lif):
        self.embedding = (weights["emb.weight"] >= 0).float()
        self.w = {name: value.clone().requires_grad_() for name, value in weights.items() if name != "emb.weight"}
        self.L, self.wkv, self.lif = L, wkv, lif
        self.adam = torch.optim.Adam(self.w.values(), lr=1e-3, fused=True)

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def linear(self, name, x):
        return F.linear(x, self.w[f"{name}.weight"])

    def loss(self, tokens):
        x = self.norm("blocks.0.ln0", F.embedding(tokens[:, :-1], self.embedding))
        for i in range(self.L):
            att, ffn = f"blocks.{i}.att", f"blocks.{i}.ffn"
            y = self.norm(f"blocks.{i}.ln1", x)
            s = shifted(y)
            k, v, r = (
                self.linear(f"{att}.{name}", torch.lerp(s, y, self.w[f"{att}.time_mix_{m}"]))
                for name, m in (("key", "k"), ("value", "v"), ("receptance", "r"))
            )
            w = -torch.exp(self.w[f"{att}.time_decay"])
            mixed = torch.sigmoid(r) * self.wkv(w, self.w[f"{att}.time_first"], k, v)
            x = x + self.lif(self.linear(f"{att}.output", mixed))
            y = self.norm(f"blocks.{i}.ln2", x)
            s = shifted(y)
            k = torch.relu(self.linear(f"{ffn}.key", torch.lerp(s, y, self.w[f"{ffn}.time_mix_k"]))) ** 2
            r = torch.sigmoid(self.linear(f"{ffn}.receptance", torch.lerp(s, y, self.w[f"{ffn}.time_mix_r"])))
            x = x + self.lif(r * self.linear(f"{ffn}.value", k))
        logits = self.linear("head", self.norm("ln_out", x))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def step(self, tokens):
        self.adam.zero_grad(set_to_none=True)
        loss = self.loss(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.w.values(), 1.0)
        self.adam.step()
        return loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", default="target/release/examples/step", help="the example, built")
    parser.add_argument("--shapes", default="2048,128,4,16,128 4096,512,8,16,128", help="V,D,L,batch,time each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="in each turn, after one to warm up")
    parser.add_argument("--scheme", default="f32", help="that qslm trains under; PyTorch trains floats")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    wkv, lif = functions(scans())
    for shape in arguments.shapes.split():
        V, D, L, B, T = map(int, shape.split(","))
        generator = torch.Generator().manual_seed(1)
        weights = random_weights(V, D, L, generator)
        tokens = torch.randint(0, V, (B, T + 1), generator=generator)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(pathlib.Path(folder) / f"{name}.safetensors") for name in ("model", "tokens")}
            save_file(weights, files["model"])
            save_file({"tokens": tokens.int()}, files["tokens"])

            def ours():
                command = [arguments.step, files["model"], files["tokens"], arguments.scheme, str(arguments.threads),
                           str(arguments.steps + 1)]
                report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                peaks.append(report["peak"] * arguments.threads)
                floors.append(report["products"] / peaks[-1])
                return report["losses"], report["seconds"]

            def theirs():
                trainer, losses, seconds = Trainer(weights, L, wkv, lif), [], []
                for _ in range(arguments.steps + 1):
                    started = time.perf_counter()
                    losses.append(trainer.step(tokens))
                    seconds.append(time.perf_counter() - started)
                return losses, seconds

            took, ratios, peaks, floors = {"qslm": [], "PyTorch": []}, [], [], []
            for _ in range(arguments.pairs):
                (losses, mine), (expected, other) = ours(), theirs()
                mine, other = (statistics.median(seconds[1:]) for seconds in (mine, other))
                took["qslm"].append(mine)
                took["PyTorch"].append(other)
                ratios.append(other / mine)
        print(f"V {V}, D {D}, L {L}, {B} x {T} tokens, {arguments.threads} threads, {arguments.scheme}, "
              f"medians of {arguments.pairs} pairs")
        for name, seconds in took.items():
            print(f"  {name:8} {statistics.median(seconds):8.4f} s a step   {B * T / statistics.median(seconds):9.0f} tokens/s")
        print(f"  PyTorch / qslm {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})   "
              f"losses {losses[0]:.5f} {expected[0]:.5f}, then {losses[1]:.5f} {expected[1]:.5f}")
        floor = min(floors)
        print(f"  products alone, at the peak of {max(peaks) / 1e9:.0f} GFLOP/s: {floor:.4f} s, "
              f"{statistics.median(took['PyTorch']) / floor:.2f} times as fast as PyTorch; "
              f"qslm reaches {floor / statistics.median(took['qslm']):.0%} of it")
        if arguments.scheme == "f32":
            assert abs(losses[0] / expected[0] - 1) < 1e-4 and abs(losses[1] / expected[1] - 1) < 1e-2, "the losses differ"


if __name__ == "__main__":
    main()
