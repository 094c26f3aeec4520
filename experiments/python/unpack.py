"""Loads a packed file with nothing but numpy, and writes it as float safetensors: the layout to port to a device.

    qslm apply --checkpoint model.safetensors --bits 4 --embedding sign --out packed.safetensors
    python experiments/python/unpack.py packed.safetensors float.safetensors
"""

import json
import sys

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2", "U8": "u1", "I8": "i1"}


def load(path):
    """The tensors of a packed file by name, in 32-bit floats, and its manifest."""
    file = open(path, "rb").read()
    start = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:start])
    manifest = json.loads(header.pop("__metadata__")["qslm.manifest"])
    parts = {}
    for name, info in header.items():
        first, last = info["data_offsets"]
        parts[name] = np.frombuffer(file[start + first : start + last], TYPES[info["dtype"]]).reshape(info["shape"])
    if manifest.get("vectors", "f32") not in ("f32", "f16"):
        raise SystemExit(f"one-dimensional parameters in {manifest['vectors']} are not read here")
    network = manifest["network"]
    shapes = {"att": (network["channels"],) * 2, "receptance": (network["channels"],) * 2}
    shapes |= {"key": (network["hidden"], network["channels"]), "value": (network["channels"], network["hidden"])}
    shapes |= {"emb": (network["vocabulary"], network["channels"]), "head": (network["outputs"], network["channels"])}
    tensors = {name: part.astype("f4") for name, part in parts.items() if part.dtype.kind == "f" and not name.endswith(".scales")}
    for name, scheme in manifest["schemes"].items():
        words = name.split(".")
        shape = shapes[next(word for word in (words[0], words[2] if len(words) > 3 else "", words[-2]) if word in shapes)]
        if f"{name}.signs" in parts:
            tensors[name] = np.where(unpacked(parts[f"{name}.signs"], 1, shape), 1, -1).astype("f4")
        elif name not in tensors:
            tensors[name] = matrix(name, scheme, parts, shape)
    return tensors, manifest


def unpacked(bytes_, bits, shape):
    """Codes without gaps, the lowest bit first, in two's complement."""
    wanted = shape[0] * shape[1]
    planes = np.unpackbits(bytes_, bitorder="little")[: wanted * bits].reshape(wanted, bits)
    values = (planes * (1 << np.arange(bits))).sum(axis=1)
    return np.where(values >= 1 << (bits - 1), values - (1 << bits), values).reshape(shape)


def matrix(name, scheme, parts, shape):
    """Weights of integer codes: scale (code - zero point), or half a step above for codes that are all used."""
    kind, symmetry, granularity = scheme.split(":")[:3]
    if f"{name}.codes" not in parts or f"{name}.widths" in parts or not kind.startswith("int") or symmetry == "ternary":
        raise SystemExit(f"{name}: {scheme}: entropy-coded, ternary and mixed codes are not read here")
    codes = unpacked(parts[f"{name}.codes"], int(kind[3:]), shape).astype("f4")
    scales = parts[f"{name}.scales"]
    scales = np.where(scales == -128, 0, np.exp2(scales.astype("f4"))) if scales.dtype.kind == "i" else scales
    run = {"tensor": codes.size, "channel": shape[1]}.get(granularity) or int(granularity.removeprefix("group"))
    spread = lambda runs: np.concatenate([np.repeat(row, run)[: shape[1]] for row in runs.reshape(shape[0], -1)]) \
        if granularity != "tensor" else np.repeat(runs, run)
    zeros = spread(parts[f"{name}.zero_points"].astype("f4")) if symmetry == "affine" else 0
    offset = np.float32(0.5 if symmetry == "full" else 0)
    return (spread(scales.astype("f4")) * (codes.ravel() - zeros + offset)).astype("f4").reshape(shape)


def main(packed, out):
    tensors, _ = load(packed)
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    with open(out, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values()))
    print(f"{out}: {len(tensors)} tensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
