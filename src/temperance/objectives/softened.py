"""Softened log-probabilities of student and teacher, over the classes or over k + 1 buckets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from temperance.errors import UserError
from temperance.rows import Signal, TopK


def log_probabilities(
    student: Signal, teacher: Signal, *, softening: float, teacher_softening: float
) -> tuple[Float[Tensor, "rows buckets"], Float[Tensor, "rows buckets"]]:
    """Log of the student's and of the teacher's softened prediction, comparable bucket by bucket.

    With a sparse teacher the buckets are its k classes and, last, all others together: a
    divergence over them is a lower bound of the one over classes (data processing inequality),
    never negative, and the same at k = classes. What the others hold is known to the precision of
    the log-sum-exp only: below that, about 2e-6 in float32, it counts as that much.

    Args:
        softening: τ of the student, > 0.
        teacher_softening: τ of the teacher, > 0.

    Raises:
        UserError: if a sparse teacher's log-sum-exp is of another softening.
    """
    prediction = F.log_softmax(student.logits / softening, dim=-1)
    if teacher.top_k is None:
        return prediction, F.log_softmax(teacher.logits / teacher_softening, dim=-1)
    top_k = teacher.top_k
    scaled = teacher.logits / teacher_softening
    return _student_buckets(prediction, top_k), _teacher_buckets(scaled, top_k, teacher_softening)


def _student_buckets(
    log_probability: Float[Tensor, "rows classes"], top_k: TopK
) -> Float[Tensor, "rows buckets"]:
    kept = log_probability.gather(1, top_k.indices)
    if top_k.indices.shape[1] == top_k.classes:
        return kept
    # Summed over the others rather than 1 − kept: that cancels where the teacher is right.
    others = log_probability.scatter(1, top_k.indices, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([kept, others], dim=1)


def _teacher_buckets(
    scaled: Float[Tensor, "rows k"], top_k: TopK, softening: float
) -> Float[Tensor, "rows buckets"]:
    if scaled.shape[1] == top_k.classes:
        return F.log_softmax(scaled, dim=-1)
    if abs(softening - top_k.softening) > 1e-6 * softening:
        raise UserError(
            f"its log-sum-exp is of softening {top_k.softening:g}, and a teacher softening of"
            f" {softening:g} is asked for",
            where="sparse teacher",
            mend="Store it at that softening, or use the softening that is stored",
        )
    kept = scaled - top_k.log_sum_exp[:, None]
    tail = -kept.logsumexp(1, keepdim=True).clamp(max=0).expm1()
    # A nearly empty tail is the difference of two numbers as large as their log-sum-exp: what
    # rounding leaves of it is noise, and a zero would make a reverse KL infinite.
    precision = torch.finfo(top_k.log_sum_exp.dtype).eps
    noise = 16 * precision * top_k.log_sum_exp.abs().clamp(min=1)
    tail = torch.maximum(tail, noise[:, None])
    return F.log_softmax(torch.cat([kept, tail.log()], dim=1), dim=-1).to(scaled.dtype)
