"""Slow oracles of the logit methods that need labels: one row, one class at a time, in float64.

Each takes one row: the logits of student and teacher, the label, and softenings.
"""

import math


def softmax(logits, softening):
    weights = [math.exp((z - max(logits)) / softening) for z in logits]
    return [w / sum(weights) for w in weights]


def divergence(p, q):
    """KL(p ‖ q) in nats."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def kd(student, teacher, softening, teacher_softening):
    """τ² KL(teacher ‖ student)."""
    p, q = softmax(teacher, teacher_softening), softmax(student, softening)
    return softening**2 * divergence(p, q)


def dkd(student, teacher, label, softening, teacher_softening):
    """TCKD and NCKD of Zhao et al. 2022, eqs. 1 to 6, times τ²."""
    binary, others = [], []
    for logits, tau in ((teacher, teacher_softening), (student, softening)):
        p = softmax(logits, tau)
        rest = sum(p[k] for k in range(len(p)) if k != label)
        binary.append([p[label], rest])
        others.append([p[k] / rest for k in range(len(p)) if k != label])
    return softening**2 * divergence(*binary), softening**2 * divergence(*others)


def nkd(student, teacher, label, softening, teacher_softening):
    """The two sums of Yang et al. 2023, L_NKD, without γ: −T_y log S_y, −λ² Σ N(T_k) log N(S_k)."""
    target = -softmax(teacher, 1.0)[label] * math.log(softmax(student, 1.0)[label])
    p, q = softmax(teacher, teacher_softening), softmax(student, softening)
    rest_p = sum(p[k] for k in range(len(p)) if k != label)
    rest_q = sum(q[k] for k in range(len(q)) if k != label)
    others = 0.0
    for k in range(len(p)):
        if k != label:
            others -= p[k] / rest_p * math.log(q[k] / rest_q)
    return target, softening**2 * others


def wsld_weight(student, teacher, label, epsilon=0.0):
    """1 − exp(−CE_student / CE_teacher) of Zhou et al. 2021."""
    student_loss = -math.log(softmax(student, 1.0)[label])
    teacher_loss = -math.log(softmax(teacher, 1.0)[label])
    return 1 - math.exp(-student_loss / (teacher_loss + epsilon))


def soft_cross_entropy(student, teacher, softening, teacher_softening):
    """τ² times the cross-entropy with the softened teacher: as WSLD and ATS are published."""
    p, q = softmax(teacher, teacher_softening), softmax(student, softening)
    return -(softening**2) * sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def ats(student, teacher, label, softening, target_softening, other_softening):
    """τ² KL from the asymmetrically softened teacher of Li et al. 2022, eq. 5."""
    divided = [
        z / (target_softening if k == label else other_softening) for k, z in enumerate(teacher)
    ]
    p, q = softmax(divided, 1.0), softmax(student, softening)
    return softening**2 * divergence(p, q)


def each(function, students, teachers, labels, *settings):
    """An oracle over rows."""
    return [
        function(student, teacher, label, *settings)
        for student, teacher, label in zip(
            students.tolist(), teachers.tolist(), labels.tolist(), strict=True
        )
    ]


def gradient(function, student, step=1e-5):
    """Of a function of one row of logits, by central differences."""
    slopes = []
    for k in range(len(student)):
        up = [z + step * (j == k) for j, z in enumerate(student)]
        down = [z - step * (j == k) for j, z in enumerate(student)]
        slopes.append((function(up) - function(down)) / (2 * step))
    return slopes
