"""Slow oracles of the objectives that compare activations: each equation, term by term."""

from itertools import product

import numpy as np


def mean_over_cells(maps, size):
    """Average pooling: cell i of m covers the pixels from ⌊i n / m⌋ to ⌈(i + 1) n / m⌉."""
    rows, channels, height, width = maps.shape
    out = np.zeros((rows, channels, *size))
    for i, j in product(*map(range, size)):
        top, bottom = i * height // size[0], -(-(i + 1) * height // size[0])
        left, right = j * width // size[1], -(-(j + 1) * width // size[1])
        out[:, :, i, j] = maps[:, :, top:bottom, left:right].mean(axis=(2, 3))
    return out


def at_smaller_size(student, teacher):
    size = tuple(min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return mean_over_cells(student, size), mean_over_cells(teacher, size)


def unit(vector):
    length = np.sqrt(sum(x * x for x in vector))
    return vector / length if length > 0 else vector


def huber(x, y):
    distance = abs(x - y)
    return distance**2 / 2 if distance <= 1 else distance - 0.5


def hint(prediction, teacher):
    """Romero 2015, eq. 3, as a mean over the elements."""
    return np.array(
        [
            np.mean([(a - b) ** 2 for a, b in zip(x.ravel(), y.ravel(), strict=True)])
            for x, y in zip(prediction, teacher, strict=True)
        ]
    )


def attention_map(maps, power):
    """Zagoruyko & Komodakis 2017: F_sum^p."""
    return sum(np.abs(maps[:, c : c + 1]) ** power for c in range(maps.shape[1]))


def attention(student, teacher, *, variant="paper", power=2.0):
    """Eq. 2 with β / (number of elements), or the authors' code."""
    if variant == "code":
        student, teacher = at_smaller_size(student, teacher)
    maps = at_smaller_size(attention_map(student, power), attention_map(teacher, power))
    losses = []
    for ours, theirs in zip(*maps, strict=True):
        d = unit(ours.ravel()) - unit(theirs.ravel())
        if variant == "paper":
            losses.append(0.5 * np.sqrt(sum(x * x for x in d)) / len(d))
        else:
            losses.append(np.mean([x * x for x in d]))
    return np.array(losses)


def similarity(student, teacher):
    """Tung & Mori 2019, eq. 1–4."""
    b = len(student)

    def normalised(features):
        flat = features.reshape(b, -1)
        gram = np.array([[sum(x * y) for y in flat] for x in flat])
        return np.array([unit(row) for row in gram])

    ours, theirs = normalised(student), normalised(teacher)
    return sum((theirs[i, j] - ours[i, j]) ** 2 for i, j in product(range(b), repeat=2)) / b**2


def rkd_distance(student, teacher, *, variant="paper"):
    """Park 2019, eq. 5–8, as a mean."""
    b = len(student)
    pairs = [(i, j) for i, j in product(range(b), repeat=2) if i != j]

    def potential(vectors):
        distances = {(i, j): np.linalg.norm(vectors[i] - vectors[j]) for i, j in pairs}
        mean = np.mean(list(distances.values()))
        return {pair: distance / mean for pair, distance in distances.items()}

    ours, theirs = potential(student), potential(teacher)
    n = len(pairs) if variant == "paper" else b**2
    return sum(huber(ours[pair], theirs[pair]) for pair in pairs) / n


def rkd_angle(student, teacher, *, variant="paper"):
    """Park 2019, eq. 9 and 10, as a mean."""
    b = len(student)
    triplets = [t for t in product(range(b), repeat=3) if variant == "code" or len(set(t)) == 3]

    def cosine(vectors, i, j, k):
        return unit(vectors[i] - vectors[j]) @ unit(vectors[k] - vectors[j])

    return np.mean([huber(cosine(student, *t), cosine(teacher, *t)) for t in triplets])


def pkt(student, teacher, *, variant="paper", epsilon=1e-7):
    """Passalis & Tefas 2018: Σ_i Σ_j p_ij log(p_ij / q_ij) / rows²."""
    b = len(student)

    def probabilities(vectors):
        table = np.zeros((b, b))
        for i in range(b):
            neighbours = [j for j in range(b) if variant == "code" or j != i]
            kernel = {j: (unit(vectors[i]) @ unit(vectors[j]) + 1) / 2 for j in neighbours}
            for j in neighbours:
                table[i, j] = kernel[j] / sum(kernel.values())
        return table

    q, p = probabilities(student), probabilities(teacher)
    total = 0.0
    for i, j in product(range(b), repeat=2):
        if variant == "code":
            total += p[i, j] * np.log((p[i, j] + epsilon) / (q[i, j] + epsilon))
        elif i != j and p[i, j] > 0:
            total += p[i, j] * np.log(p[i, j] / q[i, j])
    return total / b**2


def selectivity(student, teacher, *, kernel="polynomial"):
    """Huang & Wang 2017: squared MMD of the channels, each scaled to unit length."""
    losses = []
    for maps in zip(*at_smaller_size(student, teacher), strict=True):
        ours, theirs = ([unit(channel.ravel()) for channel in row] for row in maps)
        variance = np.mean([sum((x - y) ** 2) for x, y in product(ours, theirs)])

        def k(x, y, variance=variance):
            if kernel == "linear":
                return x @ y
            if kernel == "polynomial":
                return (x @ y) ** 2
            return np.exp(-sum((x - y) ** 2) / (2 * variance))

        losses.append(
            np.mean([k(x, y) for x, y in product(ours, ours)])
            + np.mean([k(x, y) for x, y in product(theirs, theirs)])
            - 2 * np.mean([k(x, y) for x, y in product(ours, theirs)])
        )
    return np.array(losses)
