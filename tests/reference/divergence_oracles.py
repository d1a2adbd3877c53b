"""Slow oracles of the divergences between predictions, class by class in Python's own floats.

Each takes one row of logits per model, as the papers do, and says which equation it is.
"""

import math

from scipy.optimize import brentq


def softmax(z, tau=1.0):
    top = max(z)
    terms = [math.exp((value - top) / tau) for value in z]
    return [term / sum(terms) for term in terms]


def kl(p, q):
    """Σ p log(p / q), in nats."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def entropy(p):
    return -sum(a * math.log(a) for a in p if a > 0)


def cross_entropy(target, z):
    return -sum(a * math.log(b) for a, b in zip(target, softmax(z), strict=True) if a > 0)


def onehot(label, classes):
    return [1.0 if k == label else 0.0 for k in range(classes)]


def kd(student, teacher, tau, tau_teacher):
    """Hinton et al. 2015: τ² KL(p ‖ q)."""
    return tau**2 * kl(softmax(teacher, tau_teacher), softmax(student, tau))


def reverse_kl(student, teacher, tau, tau_teacher):
    return tau**2 * kl(softmax(student, tau), softmax(teacher, tau_teacher))


def jensen_shannon(student, teacher, beta, tau, tau_teacher):
    """Agarwal et al. 2024, eq. 1, times τ²."""
    p, q = softmax(teacher, tau_teacher), softmax(student, tau)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return tau**2 * (beta * kl(p, m) + (1 - beta) * kl(q, m))


def power_sum(z, gamma):
    """Zheng & Yang 2024, eq. 22."""
    return sum(a**gamma for a in softmax(z))


def power_transform(z, gamma):
    """Zheng & Yang 2024, eq. 7."""
    return [a**gamma / power_sum(z, gamma) for a in softmax(z)]


def ttm(student, teacher, gamma):
    """Zheng & Yang 2024, the second term of eq. 2 without its weight."""
    return kl(power_transform(teacher, gamma), softmax(student))


def wttm(student, teacher, gamma):
    """Zheng & Yang 2024, the second term of eq. 23 without its weight."""
    return power_sum(teacher, gamma) * ttm(student, teacher, gamma)


def logit_mse(student, teacher, over_classes, centred):
    if centred:
        student = [value - sum(student) / len(student) for value in student]
        teacher = [value - sum(teacher) / len(teacher) for value in teacher]
    total = sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True))
    return total / len(student) if over_classes == "mean" else total


def buckets(p, kept):
    """Probabilities of the kept classes, then of all others together (none if all are kept)."""
    others = [value for k, value in enumerate(p) if k not in kept]
    return [p[k] for k in kept] + ([sum(others)] if others else [])


def asymmetric(z, label, tau_label, tau_other):
    scaled = [value / (tau_label if k == label else tau_other) for k, value in enumerate(z)]
    return softmax(scaled)


def uniform_mix(z, share):
    return [(1 - share) * a + share / len(z) for a in softmax(z)]


def label_smoothing(label, classes, smoothing):
    return [(1 - smoothing) * a + smoothing / classes for a in onehot(label, classes)]


def of_entropy(z, wanted):
    """The softmax at the temperature that SciPy's root finder gives."""

    def excess(log_tau):
        return entropy(softmax(z, math.exp(log_tau))) - wanted

    return softmax(z, math.exp(brentq(excess, -6, 12, xtol=1e-13)))
