"""qslm beside PyTorch: SpikeGPT's published graph (random weights) evaluated by both, in turns, on the same threads.

Prints tokens per second (medians) and ratios, after both agreed on the loss. PyTorch runs the products, norms and gates in its own
operators; the two scans over time (WKV and LIF) are compiled C++ (`compiled`), or loops of tensor operations (`loops`), which is
what people run.
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
// k, v: [batch, time, channel]; w, u: [channel].
torch::Tensor wkv(torch::Tensor w, torch::Tensor u, torch::Tensor k, torch::Tensor v) {
  auto y = torch::empty_like(k);
  const int64_t B = k.size(0), T = k.size(1), C = k.size(2);
  const float *wp = w.data_ptr<float>(), *up = u.data_ptr<float>(), *kp = k.data_ptr<float>(), *vp = v.data_ptr<float>();
  float *yp = y.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> p(C), q(C), o(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(p.begin(), p.end(), 0.f); std::fill(q.begin(), q.end(), 0.f); std::fill(o.begin(), o.end(), -1e38f);
      for (int64_t t = 0; t < T; t++) {
        const float *kr = kp + (b * T + t) * C, *vr = vp + (b * T + t) * C;
        float *yr = yp + (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          float now = up[c] + kr[c], m = std::fmax(o[c], now);
          float e1 = std::exp(o[c] - m), e2 = std::exp(now - m);
          yr[c] = (e1 * p[c] + e2 * vr[c]) / (e1 * q[c] + e2);
          float faded = wp[c] + o[c]; m = std::fmax(faded, kr[c]);
          e1 = std::exp(faded - m); e2 = std::exp(kr[c] - m);
          p[c] = e1 * p[c] + e2 * vr[c]; q[c] = e1 * q[c] + e2; o[c] = m;
        }
      }
    }
  });
  return y;
}
torch::Tensor lif(torch::Tensor x) {
  auto s = torch::empty_like(x);
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2);
  const float *xp = x.data_ptr<float>();
  float *sp = s.data_ptr<float>();
  at::parallel_for(0, B, 1, [&](int64_t from, int64_t to) {
    std::vector<float> v(C);
    for (int64_t b = from; b < to; b++) {
      std::fill(v.begin(), v.end(), 0.f);
      for (int64_t t = 0; t < T; t++) {
        const float *xr = xp + (b * T + t) * C;
        float *sr = sp + (b * T + t) * C;
        for (int64_t c = 0; c < C; c++) {
          float h = v[c] + (xr[c] - v[c]) / 2, f = h >= 1.f ? 1.f : 0.f;
          sr[c] = f; v[c] = (1.f - f) * h;
        }
      }
    }
  });
  return s;
}
"""


def wkv_loop(w, u, k, v):
    p, q = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
    o = torch.full_like(k[:, 0], -1e38)
    out = []
    for t in range(k.shape[1]):
        kt, vt = k[:, t], v[:, t]
        m = torch.maximum(o, u + kt)
        e1, e2 = torch.exp(o - m), torch.exp(u + kt - m)
        out.append((e1 * p + e2 * vt) / (e1 * q + e2))
        m = torch.maximum(w + o, kt)
        e1, e2 = torch.exp(w + o - m), torch.exp(kt - m)
        p, q, o = e1 * p + e2 * vt, e1 * q + e2, m
    return torch.stack(out, 1)


def lif_loop(x):
    v, out = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = v + (x[:, t] - v) / 2
        s = (h >= 1).to(x.dtype)
        out.append(s)
        v = (1 - s) * h
    return torch.stack(out, 1)


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


class Model:
    def __init__(self, weights, L, scans, dtype):
        self.w = {name: (value.to(dtype) if value.dim() == 2 else value) for name, value in weights.items()}
        self.L, self.dtype, (self.wkv, self.lif) = L, dtype, scans

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def linear(self, name, x):
        return F.linear(x.to(self.dtype), self.w[f"{name}.weight"]).float()

    def nll(self, tokens):
        x = (F.embedding(tokens[:, :-1], self.w["emb.weight"].float()) >= 0).float()
        x = self.norm("blocks.0.ln0", x)
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
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qslm", default="target/release/qslm")
    parser.add_argument("--shapes", default="2048,128,4,16,128 4096,256,6,8,256 4096,512,8,8,256 8192,768,6,4,512",
                        help="V,D,L,batch,time each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--variants", default="f32 compiled,bf16 compiled,f32 loops")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    scans = load_inline("scans", SCANS, functions=["wkv", "lif"], extra_cflags=["-O3", "-march=native", "-ffast-math"])
    kinds = {"compiled": (scans.wkv, scans.lif), "loops": (wkv_loop, lif_loop)}
    for shape in arguments.shapes.split():
        V, D, L, B, T = map(int, shape.split(","))
        generator = torch.Generator().manual_seed(1)
        weights = random_weights(V, D, L, generator)
        tokens = torch.randint(0, V, (B, T + 1), generator=generator)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: pathlib.Path(folder) / f"{name}.safetensors" for name in ("model", "tokens")}
            save_file(weights, files["model"])
            save_file({"tokens": tokens.int()}, files["tokens"])

            def ours(*more):
                command = [arguments.qslm, "eval", "--checkpoint", files["model"], "--tokens", files["tokens"],
                           "--threads", str(arguments.threads), "--output", "json", *more]
                report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                return report["nll_sum"], report["seconds"]

            int8 = ("--bits", "8", "--embedding", "sign")
            runs = {
                "qslm f32": ours,
                "qslm int8 weights": lambda: ours(*int8),
                "qslm int8, integer": lambda: ours(*int8, "--backend", "integer"),
                "qslm int8 and inputs": lambda: ours(*int8, "--activation-bits", "8"),
            }
            for variant in arguments.variants.split(","):
                dtype, scan = variant.split()
                model = Model(weights, L, kinds[scan], {"f32": torch.float32, "bf16": torch.bfloat16}[dtype])

                def theirs(model=model):
                    started = time.perf_counter()
                    with torch.inference_mode():
                        nll = model.nll(tokens)
                    return nll, time.perf_counter() - started

                runs[f"PyTorch {variant}"] = theirs
            seconds, losses = {name: [] for name in runs}, {}
            for turn in range(arguments.repeat + 1):
                for name, run in runs.items():
                    losses[name], took = run()
                    if turn > 0:  # the first is to warm up
                        seconds[name].append(took)
            speed = {name: B * T / statistics.median(took) for name, took in seconds.items()}
            print(f"V {V}, D {D}, L {L}, {B} x {T} tokens, {arguments.threads} threads, medians of {arguments.repeat}")
            for name, value in speed.items():
                print(f"  {name:24} {value:10.0f} tokens/s   qslm f32 / this {speed['qslm f32'] / value:6.2f}"
                      f"   nll per token {losses[name] / (B * T):.5f}")
            difference = abs(losses["qslm f32"] / losses["PyTorch f32 compiled"] - 1) if "PyTorch f32 compiled" in losses else 0
            assert difference < 1e-3, f"the losses differ by {difference:.1e}"


main()
