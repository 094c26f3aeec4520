"""Makes vectors.json: what GPTQ (arXiv 2210.17323) makes of some weights, in plain Python.

    python make.py > vectors.json

Follows the steps of the paper's own code, column by column, without blocks, in float64: dead columns (H_jj = 0) get
H_jj = 1 and weights of 0, then damping * mean(diag H) is added to the whole diagonal, ones of dead columns included.
Inputs are small multiples of powers of two, so that H = X^T X is exact; weights and scales are exact in float32. Seeds
are passed over until every decision is far from a tie and the case shows what it is named after. Sums are correctly
rounded ones (fsum), and so the same bytes come from every version of Python.
"""

import itertools
import json
import math
import random

# The least distance of a decision from a tie, in steps of the grid.
MARGIN = 1e-3


def second_moments(inputs):
    columns = range(len(inputs[0]))
    return [[math.fsum(token[j] * token[k] for token in inputs) for k in columns] for j in columns]


def damped(moments, damping):
    """The matrix of the loss, and which columns are dead."""
    columns = range(len(moments))
    dead = [moments[j][j] == 0 for j in columns]
    matrix = [list(row) for row in moments]
    for j in columns:
        if dead[j]:
            matrix[j][j] = 1.0
    damp = damping * math.fsum(matrix[j][j] for j in columns) / len(moments)
    for j in columns:
        matrix[j][j] += damp
    return matrix, dead


def cholesky(matrix):
    """The lower triangular L of matrix = L L^T."""
    size = len(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for j in range(size):
        lower[j][j] = math.sqrt(matrix[j][j] - math.fsum(value * value for value in lower[j][:j]))
        for i in range(j + 1, size):
            lower[i][j] = (matrix[i][j] - math.fsum(lower[i][k] * lower[j][k] for k in range(j))) / lower[j][j]
    return lower


def cholesky_inverse(lower):
    """The inverse of L L^T: two substitutions for every column of the identity."""
    size = len(lower)
    columns = []
    for unit in range(size):
        x = [float(i == unit) for i in range(size)]
        for i in range(size):
            x[i] = (x[i] - math.fsum(lower[i][k] * x[k] for k in range(i))) / lower[i][i]
        for i in reversed(range(size)):
            x[i] = (x[i] - math.fsum(lower[k][i] * x[k] for k in range(i + 1, size))) / lower[i][i]
        columns.append(x)
    return [[columns[k][j] for k in range(size)] for j in range(size)]


class Grid:
    """The values of one row: scale * (code - shift)."""

    def __init__(self, symmetry, bits, scale, zero_point):
        top = 2 ** (bits - 1) - 1
        self.low, self.high = {"symmetric": (-top, top), "ternary": (-1, 1)}.get(symmetry, (-top - 1, top))
        self.shift = {"affine": zero_point, "full": -0.5}.get(symmetry, 0)
        self.scale = scale

    def code(self, weight):
        """The nearest code, and how far the decision was from a tie."""
        place = weight / self.scale + self.shift
        # Python rounds halves to even.
        return min(max(round(place), self.low), self.high), abs(place - math.floor(place) - 0.5)

    def value(self, code):
        return self.scale * (code - self.shift)


def grids(case):
    zero_points = case["zero_points"] or [0] * case["rows"]
    return [Grid(case["symmetry"], case["bits"], *pair) for pair in zip(case["scales"], zero_points)]


def weight_rows(case):
    columns = case["columns"]
    return [case["weights"][row * columns : (row + 1) * columns] for row in range(case["rows"])]


def nearest(case):
    return [grid.code(weight)[0] for grid, row in zip(grids(case), weight_rows(case)) for weight in row]


def gptq(case, ties=1):
    """Codes, loss and the least distance from a tie. In act-order equal columns go by index, or against it (-1)."""
    columns = case["columns"]
    matrix, dead = damped(second_moments(case["inputs"]), case["damping"])
    order = list(range(columns))
    if case["act_order"]:
        order.sort(key=lambda j: (-matrix[j][j], ties * j))
    inverse = cholesky_inverse(cholesky([[matrix[j][k] for k in order] for j in order]))
    # inverse = U^T U.
    upper = [list(column) for column in zip(*cholesky(inverse))]

    codes, loss, margin = [], 0.0, math.inf
    for grid, weights in zip(grids(case), weight_rows(case)):
        weights = [0.0 if dead[j] else weights[j] for j in range(columns)]
        left = [weights[j] for j in order]
        row, errors = [0] * columns, []
        for place, j in enumerate(order):
            row[j], distance = grid.code(left[place])
            margin = min(margin, distance)
            error = (left[place] - grid.value(row[j])) / upper[place][place]
            for k in range(place + 1, columns):
                left[k] -= error * upper[place][k]
            errors.append(error)
        off = [weight - grid.value(code) for weight, code in zip(weights, row)]
        row_loss = math.fsum(off[j] * matrix[j][k] * off[k] for j in range(columns) for k in range(columns))
        swept = math.fsum(error * error for error in errors)
        assert math.isclose(swept, row_loss, rel_tol=1e-9), "what the sweep adds up is the loss"
        codes += row
        loss += row_loss
    return codes, loss, margin


def bell(generator, bound):
    return sum(generator.randint(-bound, bound) for _ in range(3))


def diagonal(generator, tokens, columns):
    """One input at a time."""
    return [[(token + 1.0) / 16 if token % columns == j else 0.0 for j in range(columns)] for token in range(tokens)]


def correlated(generator, tokens, columns):
    """Inputs that share a part with all others, and one with their neighbours."""
    inputs = []
    for _ in range(tokens):
        common, own = bell(generator, 12), [bell(generator, 10) for _ in range(columns + 1)]
        inputs.append([(common + own[j] + own[j + 1]) / 16 for j in range(columns)])
    return inputs


DEAD = (2, 5)


def partly_dead(generator, tokens, columns):
    """Two inputs are always zero."""
    inputs = correlated(generator, tokens, columns)
    return [[0.0 if j in DEAD else value for j, value in enumerate(token)] for token in inputs]


def uneven(generator, tokens, columns):
    """Inputs of very different sizes; input 4 is input 3 with its tokens reversed, for diagonals that are equal."""
    sizes = [2.0 ** ((5 * j) % 7 - 3) for j in range(columns)]
    inputs = [[size * value for size, value in zip(sizes, token)] for token in correlated(generator, tokens, columns)]
    return [token[:4] + [mirrored[3]] + token[5:] for token, mirrored in zip(inputs, reversed(inputs))]


def draw(seed, name, shape, symmetry, bits, steps, inputs, tokens, damping, act_order):
    """A case without its results. `steps`: least and greatest scale in 1/64, for weights that deviate by 1/2."""
    generator = random.Random(seed)
    rows, columns = shape
    # Rows of different sizes.
    sizes = [2.0 ** -(row % 3) for row in range(rows)]
    half = 2 ** (bits - 2)
    return {
        "name": name,
        "rows": rows,
        "columns": columns,
        "symmetry": symmetry,
        "bits": bits,
        "damping": damping,
        "act_order": act_order,
        "inputs": inputs(generator, tokens, columns),
        "weights": [size * bell(generator, 128) / 256 for size in sizes for _ in range(columns)],
        "scales": [size * generator.randint(*steps) / 64 for size in sizes],
        "zero_points": [generator.randint(-half, half - 1) for _ in range(rows)] if symmetry == "affine" else [],
    }


def as_nearest(case, codes):
    return codes == nearest(case)


def moved(case, codes):
    return codes != nearest(case)


def dead_and_moved(case, codes):
    """Both the weights of dead columns, taken as 0, and what others make up for change codes."""
    pairs = enumerate(zip(codes, nearest(case)))
    return {place % case["columns"] in DEAD for place, (ours, other) in pairs if ours != other} == {True, False}


def order_counts(case, codes):
    return codes != gptq(case | {"act_order": False})[0] and codes != gptq(case, ties=-1)[0]


def damping_counts(case, codes):
    return moved(case, codes) and codes != gptq(case | {"damping": 0.01})[0]


def clipped(case, codes):
    ends = sum(abs(code) == 2 ** (case["bits"] - 1) - 1 for code in codes)
    return moved(case, codes) and 2 * ends > len(codes)


# Name, rows and columns, symmetry, bits, steps, inputs, tokens, damping, act-order, what the codes must show.
CASES = [
    ("diagonal", (4, 6), "symmetric", 3, (16, 22), diagonal, 12, 0.01, False, as_nearest),
    ("two columns", (4, 2), "affine", 3, (16, 22), correlated, 8, 0.01, False, moved),
    ("four columns", (4, 4), "full", 2, (30, 36), correlated, 12, 0.01, False, moved),
    ("correlated, affine", (8, 16), "affine", 3, (16, 22), correlated, 32, 0.01, False, moved),
    ("correlated, full", (8, 16), "full", 3, (16, 22), correlated, 32, 0.01, False, moved),
    ("correlated, symmetric", (8, 16), "symmetric", 3, (16, 22), correlated, 32, 0.01, False, moved),
    ("dead columns", (4, 8), "affine", 3, (16, 22), partly_dead, 20, 0.01, False, dead_and_moved),
    ("dead columns, undamped", (4, 8), "symmetric", 4, (8, 12), partly_dead, 20, 0.0, False, dead_and_moved),
    ("ternary", (6, 12), "ternary", 2, (36, 42), correlated, 24, 0.01, False, moved),
    ("act-order", (6, 12), "full", 3, (16, 22), uneven, 24, 0.01, True, order_counts),
    ("damping", (6, 12), "symmetric", 2, (36, 42), correlated, 24, 0.1, False, damping_counts),
    ("few tokens", (4, 16), "affine", 4, (8, 12), correlated, 6, 0.01, False, moved),
    ("clipping", (4, 8), "symmetric", 3, (5, 7), correlated, 16, 0.01, False, clipped),
]


def solved(number, *description, shows):
    for seed in itertools.count(1000 * number):
        case = draw(seed, *description)
        codes, loss, margin = gptq(case)
        if margin > MARGIN and shows(case, codes):
            return case | {"codes": codes, "loss": loss}


cases = [solved(number, *case[:-1], shows=case[-1]) for number, case in enumerate(CASES, 1)]
print("[\n  " + ",\n  ".join(json.dumps(case) for case in cases) + "\n]")
