"""One class against the rest: log-odds of each class, and one distribution out of many answers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def log_odds(logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    """log p − log(1 − p) of each class's softmax probability p, exact also where p rounds to 1.

    −inf for a masked class, +inf for the only class that is not masked. In the dtype of the logits
    or, if that is narrower, float32.

    Examples:
        >>> log_odds(torch.tensor([[100.0, 0.0, 0.0]]))[0, 0] == 100 - torch.tensor(2.0).log()
        tensor(True)
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    highest, predicted = wide.max(1, keepdim=True)
    share = (wide - highest).exp()
    # the rest of any other class holds the predicted one, whose share is 1: nothing cancels
    rest = highest + (share.sum(1, keepdim=True) - share).log()
    others = wide.scatter(1, predicted, -torch.inf)
    return wide - rest.scatter(1, predicted, others.logsumexp(1, keepdim=True))


def renormalised(
    probabilities: Float[Tensor, "rows classes"], logits: Float[Tensor, "rows classes"]
) -> Float[Tensor, "rows classes"]:
    """Log-probabilities from answers of one class each, divided by their sum in every row.

    A class that is masked in the logits stays masked, whatever its answer. Where all answers of a
    row are 0 there is nothing to divide by: the row keeps its uncalibrated probabilities.

    Args:
        probabilities: ≥ 0, not summing to 1 yet.
        logits: uncalibrated; the result has their dtype.

    Examples:
        >>> answers, logits = torch.tensor([[0.2, 0.6], [0.0, 0.0]]), torch.zeros(2, 2)
        >>> renormalised(answers, logits).exp()
        tensor([[0.2500, 0.7500],
                [0.5000, 0.5000]])
    """
    answers = probabilities.masked_fill(logits == -torch.inf, 0)
    total = answers.sum(1, keepdim=True)
    uncalibrated = logits.to(answers.dtype).log_softmax(1)
    return torch.where(total > 0, answers.log() - total.log(), uncalibrated).to(logits.dtype)
