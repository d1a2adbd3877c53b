"""Slow oracles of the relational, multi-level, learned and standardised logit methods.

Each equation as it is written, number by number, on lists of logits: rows of classes. Nothing is
done for numerical safety, so they hold for moderate logits only.
"""

import math


def softmax(z, tau):
    powers = [math.exp(value / tau) for value in z]
    return [power / sum(powers) for power in powers]


def kl(target, prediction):
    return sum(p * math.log(p / q) for p, q in zip(target, prediction, strict=True))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


# DIST (Huang et al. 2022): d(u, v) = 1 − Pearson correlation of u and v.


def pearson_distance(u, v, epsilon=0.0):
    """Without variance in one of them 1, in both 0; the published code has an epsilon instead."""
    u = [value - mean(u) for value in u]
    v = [value - mean(v) for value in v]
    covariance = sum(a * b for a, b in zip(u, v, strict=True))
    norms = [math.sqrt(sum(value**2 for value in values)) for values in (u, v)]
    if epsilon == 0 and 0 in norms:
        return 0.0 if norms == [0, 0] else 1.0
    return 1 - covariance / (norms[0] * norms[1] + epsilon)


def inter_class(student, teacher, tau, teacher_tau, epsilon=0.0):
    return [
        tau**2 * pearson_distance(softmax(s, tau), softmax(t, teacher_tau), epsilon)
        for s, t in zip(student, teacher, strict=True)
    ]


def intra_class(student, teacher, tau, teacher_tau, epsilon=0.0):
    predictions = [softmax(row, tau) for row in student]
    targets = [softmax(row, teacher_tau) for row in teacher]
    columns = zip(zip(*predictions, strict=True), zip(*targets, strict=True), strict=True)
    return tau**2 * mean(pearson_distance(list(u), list(v), epsilon) for u, v in columns)


# Multi-level logit distillation (Jin et al. 2023).


def dot(u, v):
    return sum(a * b for a, b in zip(u, v, strict=True))


def similarities(vectors):
    return [[dot(u, v) for v in vectors] for u in vectors]


def squared_difference(one, other):
    pairs = zip(one, other, strict=True)
    return sum((a - b) ** 2 for u, v in pairs for a, b in zip(u, v, strict=True))


def instance_level(student, teacher, tau, teacher_tau):
    return [
        tau**2 * kl(softmax(t, teacher_tau), softmax(s, tau))
        for s, t in zip(student, teacher, strict=True)
    ]


def batch_level(student, teacher, tau, teacher_tau):
    predictions = [softmax(row, tau) for row in student]
    targets = [softmax(row, teacher_tau) for row in teacher]
    return squared_difference(similarities(predictions), similarities(targets)) / len(student)


def class_level(student, teacher, tau, teacher_tau):
    predictions = list(zip(*(softmax(row, tau) for row in student), strict=True))
    targets = list(zip(*(softmax(row, teacher_tau) for row in teacher), strict=True))
    return squared_difference(similarities(predictions), similarities(targets)) / len(student[0])


def share_up_to_median(values):
    """With the median of an even number of values half-way between the two in the middle."""
    ordered, n = sorted(values), len(values)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return mean(1.0 if value <= median else 0.0 for value in values)


def published_mlkd(weak, strong, softenings):
    """What the lines of the published code give, one after the other.

    Args:
        weak: student's and teacher's logits of the weak view.
        strong: likewise of the strong view.
        softenings: the five pairs of softenings, the configured one first, then 3, 5, 2, 6.
    """
    beliefs = [softmax(row, 1.0) for row in weak[1]]
    rows = share_up_to_median([max(belief) for belief in beliefs])
    classes = share_up_to_median([sum(column) for column in zip(*beliefs, strict=True)])
    own, three, five, two, six = softenings
    instance = 0.0
    for pair in (own, three, five, two, six):
        instance += rows * mean(instance_level(*weak, *pair))
    for view, pair in ((strong, own), (strong, three), (strong, five), (weak, two), (weak, six)):
        instance += mean(instance_level(*view, *pair))
    batch = sum(rows * batch_level(*weak, *pair) for pair in softenings)
    level = sum(classes * class_level(*weak, *pair) for pair in softenings)
    return instance, batch, level


# CTKD (Li et al. 2023).


def learned_softening(theta, start, width):
    return start + width / (1 + math.exp(-theta))


def ctkd(student, teacher, theta, start, width, ratio):
    tau = learned_softening(theta, start, width)
    return instance_level(student, teacher, tau, tau * ratio)


def curriculum(epoch, loops):
    """Eq. 11 with a strength from 0 to 1."""
    return 0.5 * (1 + math.cos((1 + min(epoch, loops) / loops) * math.pi))


# LSKD (Sun et al. 2024).


def standardized(z, published=False):
    centre = mean(z)
    squares = sum((value - centre) ** 2 for value in z)
    if squares == 0:
        return [0.0 for _ in z]
    if published:
        deviation = math.sqrt(squares / (len(z) - 1)) + 1e-7
    else:
        deviation = math.sqrt(squares / len(z))
    return [(value - centre) / deviation for value in z]


# CIST (Luong et al. 2026), as its description is read.


def cist_softening(z, ratio):
    height = max(z) - mean(z)
    return height / ratio if height else 1.0


def cist(student, teacher, ratio, teacher_ratio, confidence_power, difficulty_power):
    losses = []
    for s, t in zip(student, teacher, strict=True):
        tau, teacher_tau = cist_softening(s, ratio), cist_softening(t, teacher_ratio)
        divergence = tau**2 * kl(softmax(t, teacher_tau), softmax(s, tau))
        belief = softmax(t, 1.0)
        confidence = max(belief)
        lack = 1 - softmax(s, 1.0)[belief.index(confidence)]
        losses.append(confidence**confidence_power * lack**difficulty_power * divergence)
    return losses
