"""Slow oracles of the feature methods with adapters: the papers' equations, number by number.

Everything is float64 NumPy. Maps are (rows, channels, height, width); a layer is given by its
weights. Nothing here knows the package.
"""

import math

import numpy as np
from scipy.stats import truncnorm

# Layers.


def convolve(x, weight):
    """Convolution of odd size, padded with zeros to keep the map's size, without bias."""
    rows, _, height, width = x.shape
    reach = weight.shape[2] // 2
    out = np.zeros((rows, len(weight), height, width))
    for n, o, i, j in np.ndindex(*out.shape):
        for a in range(-reach, reach + 1):
            for b in range(-reach, reach + 1):
                if 0 <= i + a < height and 0 <= j + b < width:
                    out[n, o, i, j] += x[n, :, i + a, j + b] @ weight[o, :, a + reach, b + reach]
    return out


def batch_norm(x, weight, bias, eps=1e-5):
    """Over the batch, as in training."""
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        spread = math.sqrt(((values - values.mean()) ** 2).mean() + eps)
        out[:, c] = weight[c] * (values - values.mean()) / spread + bias[c]
    return out


def nearest(x, size):
    """Nearest-neighbour interpolation to (height, width)."""
    out = np.empty((*x.shape[:2], *size))
    for i, j in np.ndindex(*size):
        out[:, :, i, j] = x[:, :, i * x.shape[2] // size[0], j * x.shape[3] // size[1]]
    return out


def pool(x, size):
    """Averages over a size × size grid of cells that cover the map."""
    out = np.empty((*x.shape[:2], size, size))
    for i, j in np.ndindex(size, size):
        top, bottom = math.floor(i * x.shape[2] / size), math.ceil((i + 1) * x.shape[2] / size)
        left, right = math.floor(j * x.shape[3] / size), math.ceil((j + 1) * x.shape[3] / size)
        out[:, :, i, j] = x[:, :, top:bottom, left:right].mean((2, 3))
    return out


# VID.


def gaussian_nll(mean, teacher, variance):
    losses = []
    for mu, t in zip(mean, teacher, strict=True):
        terms = [
            0.5 * ((mu[at] - t[at]) ** 2 / variance[at[0]] + math.log(variance[at[0]]))
            for at in np.ndindex(*t.shape)
        ]
        losses.append(sum(terms) / len(terms))
    return np.array(losses)


def vid_regressor(x, weights):
    """Three 1×1 convolutions with ReLU between."""
    for i, weight in enumerate(weights):
        x = convolve(x, weight)
        if i < len(weights) - 1:
            x = np.maximum(x, 0)
    return x


# CC.


def correlation(x, y, gamma, order):
    x, y = x / math.sqrt(x @ x), y / math.sqrt(y @ y)
    if order is None:
        return x @ y
    series = sum((2 * gamma) ** p / math.factorial(p) * (x @ y) ** p for p in range(order + 1))
    return math.exp(-2 * gamma) * series


def correlation_distance(student, teacher, gamma, order):
    n, total = len(student), 0.0
    for i in range(n):
        for j in range(n):
            own = correlation(student[i], student[j], gamma, order)
            total += (own - correlation(teacher[i], teacher[j], gamma, order)) ** 2
    return total / n**2


def neighbour_product(student, teacher):
    distance = np.abs(student - teacher)
    return np.mean([distance[i] @ distance[i + 1] for i in range(len(distance) - 1)])


# CRD.


def contrast(positive, negatives, z, samples):
    """−log h(positive) − Σ log(1 − h(negative)), h = P / (P + K / M), P = exp(score) / Z."""
    noise = len(negatives) / samples

    def critic(score):
        p = math.exp(score) / z
        return p / (p + noise)

    return -math.log(critic(positive)) - sum(math.log(1 - critic(s)) for s in negatives)


# ReviewKD.


def hierarchical_context_loss(student, teacher):
    losses = []
    for s, t in zip(student[:, None], teacher[:, None], strict=True):
        total, weight, weights = ((s - t) ** 2).mean(), 1.0, 1.0
        for size in (4, 2, 1):
            if size >= s.shape[2]:
                continue
            weight /= 2
            total += weight * ((pool(s, size) - pool(t, size)) ** 2).mean()
            weights += weight
        losses.append(total / weights)
    return np.array(losses)


def review(student, teacher, fusions):
    """Fuse from the deepest level on; `fusions` holds each level's weights, the first level's
    first: inner, inner_scale, inner_shift, outer, outer_scale, outer_shift, and attention and
    attention_bias unless it is the deepest."""
    total, deeper = np.zeros(len(student[0])), None
    for own, others, layers in reversed(list(zip(student, teacher, fusions, strict=True))):
        x = batch_norm(convolve(own, layers["inner"]), layers["inner_scale"], layers["inner_shift"])
        if deeper is not None:
            y = nearest(deeper, x.shape[2:])
            z = convolve(np.concatenate([x, y], axis=1), layers["attention"])
            z = 1 / (1 + np.exp(-(z + layers["attention_bias"][:, None, None])))
            x = x * z[:, 0:1] + y * z[:, 1:2]
        deeper = nearest(x, others.shape[2:])
        out = convolve(deeper, layers["outer"])
        out = batch_norm(out, layers["outer_scale"], layers["outer_shift"])
        total += hierarchical_context_loss(out, others)
    return total


# OFD.


def partial_l2(student, teacher, margin):
    losses = []
    for s, t in zip(student, teacher, strict=True):
        total = 0.0
        for at in np.ndindex(*s.shape):
            target = max(t[at], margin[at[0]])
            if not s[at] <= target <= 0:
                total += (s[at] - target) ** 2
        losses.append(total)
    return np.array(losses)


def expected_negative(mean, deviation):
    """Of a normal distribution cut at 0."""
    return truncnorm.mean(-np.inf, -mean / deviation, loc=mean, scale=deviation)


# SRRL.


def representation_losses(student, teacher, head, bias):
    """Distance of the embeddings, and of the logits that the head makes of both."""
    features, logits = [], []
    for s, t in zip(student, teacher, strict=True):
        features.append(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s))
        own, others = head @ s + bias, head @ t + bias
        logits.append(sum((a - b) ** 2 for a, b in zip(own, others, strict=True)) / len(own))
    return np.array(features), np.array(logits)
