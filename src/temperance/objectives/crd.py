"""Contrastive representation distillation (Tian, Krishnan & Isola, ICLR 2020, arXiv 1910.10699)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from temperance.errors import UserError
from temperance.objectives.activations import unit_length
from temperance.objectives.base import Pair
from temperance.objectives.feature_base import FeatureArgs, FeatureObjective
from temperance.objectives.weights import Weight, constant
from temperance.rows import Needs, Rows


class CRDArgs(FeatureArgs):
    """Contrastive representation distillation; the defaults are the CIFAR-100 recipe's."""

    name: Literal["crd"] = "crd"
    negatives: PositiveInt = 16384
    """K, remembered samples that each row is told from; no more than there are."""
    critic_temperature: PositiveFloat = 0.07
    """What similarities are divided by in the critic."""
    memory_momentum: float = Field(default=0.5, ge=0, lt=1)
    """Share of a sample's old memory that is left when it is seen again."""
    embedding_size: PositiveInt = 128
    """Units of the learned linear layers on top of both embeddings."""
    normalisation: Literal["first_batch", "none"] = "first_batch"
    """What the critic divides similarities' exponentials by: their sum over all samples, estimated
    once, as in the published code that the weight belongs to; or nothing, as the paper writes."""
    weight: Weight = constant(0.8)
    """Weight of the contrastive term."""


class CRD(FeatureObjective):
    """label_weight · cross-entropy + weight · contrastive loss of the embeddings (eq. 18).

    Each row's student embedding is told apart among the remembered teacher embeddings, and its
    teacher embedding among the remembered student embeddings: its own sample against `negatives`
    others. Two memories hold an embedding per training sample, and follow what is seen, in training
    mode only and on all processes alike.

    A scalar over the local batch: the negatives are drawn, and what is remembered depends on the
    batches before, so the loss of a row is no function of the row alone.

    Negatives are samples of other labels where labels are known (the published default), else other
    samples. They are drawn with replacement, from PyTorch's CPU generator; the published code draws
    without, which costs a permutation of the training set per row. Its 1e-7 in the critic's
    denominator is left out: the logarithms here are finite without.
    """

    name = "crd"
    args_class = CRDArgs
    args: CRDArgs
    needs = Needs(features="embeddings", ids=True)
    level = "embedding"
    row_wise = False

    sample_ids: Tensor
    by_label: Tensor
    first_alike: Tensor
    alike: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    log_partition: Tensor

    def make_adapters(
        self, student: Sequence[torch.Size], teacher: Sequence[torch.Size], pair: Pair
    ) -> None:
        """Linear layers, and the two memories."""
        size, n = self.args.embedding_size, len(pair.ids)
        ids, order = pair.ids.cpu().sort()
        if n < 2 or bool((ids[1:] == ids[:-1]).any()):
            raise UserError(
                "remembers every training sample by its id, and there are"
                f" {n} ids{', some of them twice' if n > 1 else ''}",
                where=f"objective '{self.name}'",
                mend="Give the ids of all training samples when it is built, each once",
            )
        labels = torch.arange(n) if pair.targets is None else pair.targets.cpu()[order]
        _, label, count = torch.unique(labels, return_inverse=True, return_counts=True)
        if len(count) < 2:
            raise UserError(
                "contrasts samples of different labels, and all have the same",
                where=f"objective '{self.name}'",
                mend="Build it without targets to contrast each sample with all others",
            )
        self.student_embedding = nn.Linear(student[0][1], size)
        self.teacher_embedding = nn.Linear(teacher[0][1], size)
        self.register_buffer("sample_ids", ids)
        # Sorted by label, the samples that are alike stand together: all but a block are negatives.
        self.register_buffer("by_label", labels.argsort(stable=True))
        self.register_buffer("first_alike", (count.cumsum(0) - count)[label])
        self.register_buffer("alike", count[label])
        bound = math.sqrt(3 / size)  # rows of about unit length
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, torch.empty(n, size).uniform_(-bound, bound))
        unknown = math.nan if self.args.normalisation == "first_batch" else 0.0
        self.register_buffer("log_partition", torch.full((2,), unknown))
        self.negatives = min(self.args.negatives, n - int(count.max()))

    def compare(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], rows: Rows, progress: float
    ) -> dict[str, Tensor]:
        """The loss `crd`."""
        own = unit_length(self.student_embedding(student[0]), 1)
        others = unit_length(self.teacher_embedding(teacher[0]), 1)
        positions = self._positions(rows.ids)
        candidates = torch.cat([positions[:, None], self._draw(positions)], dim=1)
        scores = torch.stack(
            [
                self._scores(own, self.teacher_memory, candidates),
                self._scores(others, self.student_memory, candidates),
            ]
        )
        log_partition = self._log_partition(scores.detach())
        if self.training:
            self._remember(positions, own.detach(), others.detach())
        loss = sum(
            noise_contrastive_loss(side, log_partition=log_z, samples=len(self.sample_ids))
            for side, log_z in zip(scores, log_partition, strict=True)
        )
        assert isinstance(loss, Tensor)
        return {"crd": self.args.weight.at(progress) * loss.mean()}

    def _positions(self, ids: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Where the samples are in the memories."""
        ids = ids.to(self.sample_ids.device)
        positions = torch.searchsorted(self.sample_ids, ids).clamp(max=len(self.sample_ids) - 1)
        unknown = self.sample_ids[positions] != ids
        if unknown.any():
            raise UserError(
                f"does not know sample {int(ids[unknown][0])}, it remembers the"
                f" {len(self.sample_ids)} that it was built with",
                where=f"objective '{self.name}'",
                mend="Build it with the ids of all training samples",
            )
        return positions

    def _draw(self, positions: Int[Tensor, " rows"]) -> Int[Tensor, "rows negatives"]:
        """Positions of negatives, uniformly among the samples that are not alike."""
        # On the CPU, whose generator a checkpoint restores; the remainder's bias is below 1e-9.
        drawn = torch.randint(2**62, (len(positions), self.negatives)).to(positions.device)
        alike = self.alike[positions, None]
        rank = drawn % (len(self.sample_ids) - alike)
        return self.by_label[rank + alike * (rank >= self.first_alike[positions, None])]

    def _scores(
        self,
        anchors: Float[Tensor, "rows units"],
        memory: Float[Tensor, "samples units"],
        candidates: Int[Tensor, "rows candidates"],
    ) -> Float[Tensor, "rows candidates"]:
        # All similarities first: rows × samples numbers are fewer than rows × candidates × units.
        # A copy of the memory, since it changes before the backward pass needs it.
        similarity = anchors @ memory.to(anchors.dtype, copy=True).T
        return similarity.gather(1, candidates) / self.args.critic_temperature

    def _log_partition(self, scores: Float[Tensor, "2 rows candidates"]) -> Float[Tensor, " 2"]:
        """log Z of both sides: of the first batch in training, and then for good."""
        if not self.log_partition.isnan().any():
            return self.log_partition
        log_mean = (scores.logsumexp(2) - math.log(scores.shape[2])).T
        if self.training:
            log_mean = _of_all_processes(log_mean)
        log_z = log_mean.logsumexp(0) + math.log(len(self.sample_ids) / len(log_mean))
        if self.training:
            self.log_partition.copy_(log_z)
        return log_z

    @torch.no_grad()
    def _remember(
        self,
        positions: Int[Tensor, " rows"],
        student: Float[Tensor, "rows units"],
        teacher: Float[Tensor, "rows units"],
    ) -> None:
        """Move the memories of these samples towards their embeddings, on every process."""
        positions, inverse, times = torch.unique(
            _of_all_processes(positions), return_inverse=True, return_counts=True
        )
        momentum = self.args.memory_momentum
        for memory, seen in ((self.student_memory, student), (self.teacher_memory, teacher)):
            # Of a sample that is in the batch twice, as two views of it are, the mean.
            total = torch.zeros_like(memory[positions])
            total.index_add_(0, inverse, _of_all_processes(seen).to(memory.dtype))
            mixed = momentum * memory[positions] + (1 - momentum) * total / times[:, None]
            memory[positions] = unit_length(mixed, 1)


def noise_contrastive_loss(
    scores: Float[Tensor, "rows candidates"], *, log_partition: Tensor | float, samples: int
) -> Float[Tensor, " rows"]:
    """−log h(positive) − Σ log(1 − h(negative)) per row, in nats, ≥ 0 (Tian et al. 2020, eq. 18).

    The critic h = P / (P + K / M) tells a pair of the same sample from K pairs of different ones,
    with P = exp(score) / Z and M samples in all (eq. 19, where Z = 1). With the Z that makes P a
    probability over the samples it is noise-contrastive estimation with uniform noise.

    Args:
        scores: similarities / temperature; the positive's first, the K negatives' behind it.
        log_partition: log Z.
        samples: M, > 0.

    Examples:
        >>> scores = torch.zeros(1, 3)
        >>> round(float(noise_contrastive_loss(scores, log_partition=0.0, samples=2)), 4)
        2.0794
    """
    log_odds = scores - log_partition - math.log((scores.shape[1] - 1) / samples)
    return -F.logsigmoid(log_odds[:, 0]) - F.logsigmoid(-log_odds[:, 1:]).sum(1)


def _of_all_processes(tensor: Float[Tensor, "rows ..."]) -> Float[Tensor, "all_rows ..."]:
    """The rows of every process, in the processes' order, on each of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    n = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.empty_like(n) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(counts, n)
    rows = [int(count) for count in counts]
    padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in rows]
    torch.distributed.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, rows, strict=True)])
