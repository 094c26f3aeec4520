"""Makes fake_quantize.json: what PyTorch's own fake-quantize operators make of some weights.

    pip install torch && python fake_quantize.py > fake_quantize.json

Scales and zero points are computed here from the published formulas (min-max range, zero included); rounding,
clamping and dequantizing are PyTorch's. Weights avoid ties: PyTorch multiplies by the reciprocal of the scale, which
may put a tie on either side.
"""

import json

import torch

ROWS, COLUMNS = 4, 6


def run(weights, bits, symmetric):
    """One run of weights that share a scale: its fake-quantized values by PyTorch."""
    low, high = min(0.0, weights.min().item()), max(0.0, weights.max().item())
    top = 2 ** (bits - 1) - 1
    if symmetric:
        scale, zero, q_min = torch.tensor(max(high, -low)) / top, 0, -top
    else:
        q_min = -(2 ** (bits - 1))
        scale = (torch.tensor(high) - torch.tensor(low)) / (2**bits - 1)
        zero = int(torch.clamp(torch.round(q_min - torch.tensor(low) / scale), q_min, top))
    return torch.fake_quantize_per_tensor_affine(weights, scale.item(), zero, q_min, top), scale.item(), zero, q_min, top


def tensor_cut(weights, bits, symmetric):
    return run(weights.flatten(), bits, symmetric)[0].reshape(ROWS, COLUMNS)


def channel_cut(weights, bits, symmetric):
    parts = [run(row, bits, symmetric) for row in weights]
    scales = torch.tensor([part[1] for part in parts])
    zeros = torch.tensor([part[2] for part in parts], dtype=torch.int32)
    # The per-channel operator, as a second opinion on the rows.
    whole = torch.fake_quantize_per_channel_affine(weights, scales, zeros, 0, parts[0][3], parts[0][4])
    assert torch.equal(whole, torch.stack([part[0] for part in parts]))
    return whole


def group_cut(size):
    def cut(weights, bits, symmetric):
        return torch.stack([torch.cat([run(part, bits, symmetric)[0] for part in row.split(size)]) for row in weights])

    return cut


CUTS = {"tensor": tensor_cut, "channel": channel_cut, "group3": group_cut(3), "group4": group_cut(4)}

generator = torch.Generator().manual_seed(20260)
weights = torch.randn(ROWS, COLUMNS, generator=generator)
weights[1] *= 1e-3
weights[2] = weights[2].abs() + 0.1
weights[3, :2] = 0.0
cases = []
for name, cut in CUTS.items():
    for symmetric in (True, False):
        for bits in range(2, 9):
            values = cut(weights, bits, symmetric)
            symmetry = "symmetric" if symmetric else "affine"
            cases.append({"scheme": f"int{bits}:{symmetry}:{name}", "values": values.flatten().tolist()})
table = {"torch": torch.__version__.split("+")[0], "columns": COLUMNS, "weights": weights.flatten().tolist()}
lines = ",\n  ".join(json.dumps(case) for case in cases)
print(json.dumps(table)[:-1] + ', "cases": [\n  ' + lines + "\n]}")
