"""Agreement with other packages where conventions agree, and the numbers where they do not.

The numbers are those of docs/objectives-peers.md. Losses per row are compared by their mean, and
where nothing else is said the gradient with respect to the student is compared too.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reference.peers import peer
from temperance.errors import UserError
from temperance.objectives import Pair
from temperance.objectives.activations import unit_length
from temperance.objectives.attention import attention_loss
from temperance.objectives.cc import correlation_distance
from temperance.objectives.crd import CRD, noise_contrastive_loss
from temperance.objectives.dist import inter_class_loss, intra_class_loss
from temperance.objectives.fitnet import hint_loss
from temperance.objectives.jensen_shannon import JensenShannon, softened_jensen_shannon
from temperance.objectives.kd import KD, softened_kl
from temperance.objectives.logit_mse import squared_logit_error
from temperance.objectives.lskd import LSKD
from temperance.objectives.nst import selectivity_loss
from temperance.objectives.pkt import pkt_loss
from temperance.objectives.reverse_kl import softened_reverse_kl
from temperance.objectives.reviewkd import ReviewKD, hierarchical_context_loss
from temperance.objectives.rkd import rkd_angle_loss, rkd_distance_loss
from temperance.objectives.sp import similarity_loss
from temperance.objectives.vid import VID
from temperance.rows import Rows, Signal

ROWS, CLASSES = 24, 10
SOFTENINGS = [0.5, 1.0, 4.0, 20.0]
epsilons = {"rtol": 1e-5}  # of a peer that adds 1e-7 or so to norms, deviations or probabilities

torchdistill = peer("torchdistill.losses.mid_level")
torchdistill_models = peer("torchdistill.models.wrapper")
trl = peer("trl.experimental.gkd")
textbrewer = peer("textbrewer.losses")


def drawn(*shape, seed, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


STUDENT, TEACHER = (drawn(ROWS, CLASSES, seed=seed, scale=3) for seed in (1, 2))
TARGETS = torch.arange(ROWS) % CLASSES
LABELLED = Rows(TARGETS, torch.arange(ROWS))
EMBEDDINGS = drawn(8, 6, seed=3), drawn(8, 9, seed=4)  # of student and teacher
MAPS = drawn(6, 3, 8, 8, seed=5), drawn(6, 5, 8, 8, seed=6)


def signals(*logits):
    return [Signal(one) for one in logits]


def io(value):
    """What torchdistill records of a module: here of one, 'tap'."""
    return {"tap": {"output": value}}


def of_taps(loss_class, **settings):
    """A loss of torchdistill whose paths are the student's and the teacher's 'tap'."""
    return loss_class(
        student_module_path="tap",
        student_module_io="output",
        teacher_module_path="tap",
        teacher_module_io="output",
        **settings,
    )


def of_outputs(loss_class, **settings):
    return loss_class(student_output_path="tap", teacher_output_path="tap", **settings)


def paired():
    """The configuration of a loss of torchdistill that takes pairs of modules."""
    tap = {"io": "output", "path": "tap"}
    return {"pair": {"student": tap, "teacher": tap, "weight": 1}}


def called(loss, student, teacher, targets=None):
    return loss(io(student), io(teacher), targets)


def same(ours, theirs, student, *, rtol=1e-9):
    """Whether two functions of the student's tensor have the same value and gradient there."""
    results = []
    for function in (ours, theirs):
        leaf = student.clone().requires_grad_()
        value = function(leaf).squeeze()
        value.backward()
        results.append((value.detach(), leaf.grad))
    (value, gradient), (expected, other) = results
    torch.testing.assert_close(value, expected, rtol=rtol, atol=0.0)
    torch.testing.assert_close(gradient, other, rtol=rtol, atol=rtol * float(other.abs().max()))


def summed(losses):
    """Of an objective's losses, the mean over rows of their sum."""
    return sum(loss.mean() for loss in losses.values())


def made(objective, student, teacher, *, ids=None, targets=None):
    """The objective with its adapters for activations of these shapes."""
    objective.make_adapters(
        [one.shape for one in student],
        [one.shape for one in teacher],
        Pair(None, None, ids=torch.arange(0) if ids is None else ids, targets=targets),
    )
    return objective.double()


# Where conventions agree.


@pytest.mark.parametrize("tau", SOFTENINGS)
def test_kd(torchdistill, tau):
    loss = of_taps(torchdistill.KDLoss, temperature=tau, alpha=0.3, beta=0.6)
    kd = KD(softening=tau, weight=0.6, label_weight=0.3)
    same(
        lambda z: summed(kd(*signals(z, TEACHER), LABELLED, 1.0)),
        lambda z: called(loss, z, TEACHER, TARGETS),
        STUDENT,
    )


def test_kd_of_certain_models(torchdistill):
    sure = 1e4 * F.one_hot(TARGETS, CLASSES).float()
    loss = of_taps(torchdistill.KDLoss, temperature=1.0, alpha=0.5)
    kd = KD(softening=1.0, weight=0.5, label_weight=0.5)
    for student in (sure, sure.roll(1, 1)):
        same(
            lambda z: summed(kd(*signals(z, sure), LABELLED, 1.0)),
            lambda z: called(loss, z, sure, TARGETS),
            student,
            rtol=1e-6,
        )


@pytest.mark.parametrize("tau", SOFTENINGS)
def test_standardised_logits_as_published(torchdistill, tau):
    loss = of_taps(torchdistill.LogitStdKDLoss, temperature=tau, alpha=0.1, beta=9.0)
    lskd = LSKD(
        variant="code", method={"name": "kd", "softening": tau, "weight": 9.0}, label_weight=0.1
    )
    same(
        lambda z: summed(lskd(*signals(z, TEACHER), LABELLED, 1.0)),
        lambda z: called(loss, z, TEACHER, TARGETS),
        STUDENT,
    )


@pytest.mark.parametrize("tau", SOFTENINGS)
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_dist(torchdistill, tau, variant):
    loss = of_taps(torchdistill.DISTLoss, beta=1.5, gamma=0.5, tau=tau)

    def ours(z):
        settings = {"softening": tau, "teacher_softening": tau, "variant": variant}
        of_rows = inter_class_loss(z, TEACHER, **settings).mean()
        return 1.5 * of_rows + 0.5 * intra_class_loss(z, TEACHER, **settings)

    same(ours, lambda z: called(loss, z, TEACHER), STUDENT, rtol=1e-5)


def test_probabilities_of_neighbours_as_published(torchdistill):
    loss = of_taps(torchdistill.PKTLoss)
    student, teacher = EMBEDDINGS
    same(
        lambda x: pkt_loss(x, teacher, variant="code"),
        lambda x: called(loss, x, teacher),
        student,
        **epsilons,
    )


@pytest.mark.parametrize(("distance", "angle"), [(25.0, 50.0), (25.0, 0.0), (0.0, 50.0)])
def test_relations_as_published(torchdistill, distance, angle):
    loss = of_outputs(
        torchdistill.RKDLoss, dist_factor=distance, angle_factor=angle, reduction="mean"
    )
    student, teacher = EMBEDDINGS

    def ours(x):
        of_pairs = rkd_distance_loss(x, teacher, variant="code")
        return distance * of_pairs + angle * rkd_angle_loss(x, teacher, variant="code")

    same(ours, lambda x: called(loss, x, teacher), student)


def test_attention_as_published(torchdistill):
    loss = torchdistill.ATLoss(paired(), mode="code")
    student, teacher = MAPS
    same(
        lambda x: attention_loss(x, teacher, variant="code").mean(),
        lambda x: called(loss, x, teacher),
        student,
    )


def test_hints(torchdistill):
    tap = {"module_path": "tap", "io": "output"}
    loss = torchdistill.SimpleLossWrapper(
        nn.MSELoss(),
        input={**tap, "is_from_teacher": False},
        target={**tap, "is_from_teacher": True},
    )
    student, teacher = MAPS[0], drawn(*MAPS[0].shape, seed=7)
    same(lambda x: hint_loss(x, teacher).mean(), lambda x: called(loss, x, teacher, None), student)


def test_variational_information(torchdistill, torchdistill_models):
    student, teacher = MAPS
    regressor = torchdistill_models.Regressor4VID(3, 5, 5, eps=1e-5, init_pred_var=5.0).double()
    loss = torchdistill.VIDLoss(paired())
    vid = made(VID(), [student], [teacher])
    vid.regressors[0].mean.load_state_dict(regressor.regressor.state_dict())
    same(
        lambda x: summed(vid.compare([x], [teacher], LABELLED, 1.0)),
        lambda x: called(loss, regressor(x), teacher),
        student,
        rtol=1e-6,  # the logarithm of the initial variance in float32
    )


def test_contrast(torchdistill):
    """The whole of it: scores, normalisation by the first batch, both losses, both memories."""
    student, teacher = drawn(3, 6, seed=8), drawn(3, 9, seed=9)
    # The rows are three of four samples, alike; of each the one other is the one negative.
    rows, negative = torch.arange(3), torch.full((3,), 3)
    crd = made(
        CRD(negatives=1, embedding_size=4, weight=1.0),
        [student],
        [teacher],
        ids=torch.arange(4),
        targets=torch.tensor([0, 0, 0, 1]),
    )
    loss = torchdistill.CRDLoss("tap", "ids", "tap", 4, 4, 1, num_samples=4, eps=0.0).double()
    loss.memory_v1.copy_(crd.student_memory)
    loss.memory_v2.copy_(crd.teacher_memory)
    crd.train()

    def theirs(x):
        own = F.normalize(crd.student_embedding(x))
        others = F.normalize(crd.teacher_embedding(teacher))
        given = {"pos_idx": rows, "contrast_idx": torch.stack([rows, negative], 1)}
        return loss({**io(own), "ids": {"input": given}}, io(others))

    for _ in range(2):  # the second time with the memories of the first, and its normalisation
        same(
            lambda x: summed(crd.compare([x], [teacher], Rows(None, rows), 1.0)),
            theirs,
            student,
            **epsilons,
        )
        torch.testing.assert_close(crd.student_memory, loss.memory_v1, **epsilons, atol=1e-9)
        torch.testing.assert_close(crd.teacher_memory, loss.memory_v2, **epsilons, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 8])
def test_hierarchical_contexts(torchdistill, size):
    loss = of_taps(torchdistill.HierarchicalContextLoss)
    student, teacher = (drawn(4, 3, size, size, seed=seed) for seed in (10, 11))
    same(
        lambda x: hierarchical_context_loss(x, teacher).mean(),
        lambda x: called(loss, (x, None), teacher),
        student,
    )


def test_knowledge_review(torchdistill, torchdistill_models):
    """The fusions of three levels, with the same weights, and their losses."""
    shapes = [(3, 8), (4, 4), (6, 2)]  # channels and size
    student = [drawn(5, width, size, size, seed=20 + size) for width, size in shapes]
    teacher = [drawn(5, 2 * width, size, size, seed=30 + size) for width, size in shapes]
    review = made(ReviewKD(pooled=False, weight=1.0), student, teacher)
    theirs = []
    for own, others, fusion in zip(student, teacher, review.fusions, strict=True):
        fused = torchdistill_models.AttentionBasedFusion(
            own.shape[1], 6, others.shape[1], uses_attention=fusion.attention is not None
        ).double()
        fused.conv1.load_state_dict(fusion.inner.state_dict())
        fused.conv2.load_state_dict(fusion.outer.state_dict())
        if fusion.attention is not None:
            fused.attention_conv[0].load_state_dict(fusion.attention.state_dict())
        theirs.append(fused)
    loss = of_taps(torchdistill.HierarchicalContextLoss)

    def expected(first):
        deeper, total = None, 0.0
        maps = [first, *student[1:]]
        for fused, own, others in zip(theirs[::-1], maps[::-1], teacher[::-1], strict=True):
            guess, deeper = fused(own, deeper, own.shape[2])
            total = total + called(loss, (guess, deeper), others)
        return total

    same(
        lambda first: summed(review.compare([first, *student[1:]], teacher, LABELLED, 1.0)),
        expected,
        student[0],
        rtol=1e-8,
    )


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon(trl, beta):
    def ours(z):
        settings = {"beta": beta, "softening": 1.0, "teacher_softening": 1.0}
        return softened_jensen_shannon(*signals(z, TEACHER), **settings).mean()

    def theirs(z):
        return trl.GKDTrainer.generalized_jsd_loss(z, TEACHER, beta=beta)

    same(ours, theirs, STUDENT)


def test_selectivity_of_neurons(textbrewer):
    """The polynomial kernel's discrepancy is the distance of two Gram matrices over positions."""
    student, teacher = MAPS
    pixels = student.shape[2] * student.shape[3]

    def states(maps):
        # its (batch, length, hidden units) are our (rows, pixels, channels), the latter normalised
        return [unit_length(maps.flatten(2), 2).mT] * 2

    same(
        lambda x: selectivity_loss(x, teacher).mean(),
        lambda x: pixels**2 * textbrewer.mmd_loss(states(x), states(teacher)),
        student,
    )


# Where they do not: each is a line of the table.


@pytest.mark.parametrize("alpha", [0, None])
def test_kd_without_labels(torchdistill, alpha):
    # Hinton et al. 2015, §2.1: the gradient's size asks for τ², with labels or without.
    loss = of_taps(torchdistill.KDLoss, temperature=4.0, alpha=alpha, beta=0.9)
    ours = 0.9 * softened_kl(*signals(STUDENT, TEACHER), softening=4.0, teacher_softening=4.0)
    theirs = called(loss, STUDENT, TEACHER, TARGETS)
    assert float(ours.mean() / theirs) == pytest.approx(0.9 * 4**2)
    # and likewise at a batch without targets, whatever α
    loss = of_taps(torchdistill.KDLoss, temperature=4.0, alpha=0.5)
    assert float(called(loss, STUDENT, TEACHER, None)) == pytest.approx(float(theirs))


def test_kd_without_weights(torchdistill):
    with pytest.raises(TypeError, match="NoneType"):
        of_taps(torchdistill.KDLoss, temperature=4.0)


@pytest.mark.parametrize("tau", SOFTENINGS)
def test_standard_deviations(torchdistill, tau):
    # Sun et al. 2024, §3: σ over all K classes. In their code, and here, over K − 1.
    theirs = tau * math.sqrt((CLASSES - 1) / CLASSES)
    # an α of 0 would drop β and τ² as well
    loss = of_taps(torchdistill.LogitStdKDLoss, temperature=theirs, alpha=1e-300, beta=1.0)
    lskd = LSKD(method={"name": "kd", "softening": tau, "weight": 1.0}, label_weight=0.0)
    same(
        lambda z: summed(lskd(*signals(z, TEACHER), LABELLED, 1.0)),
        lambda z: CLASSES / (CLASSES - 1) * called(loss, z, TEACHER, TARGETS),
        STUDENT,
        rtol=1e-6,
    )


def test_standard_deviations_at_the_same_softening(torchdistill):
    loss = of_taps(torchdistill.LogitStdKDLoss, temperature=2.0, alpha=1e-300, beta=1.0)
    lskd = LSKD(method={"name": "kd", "softening": 2.0, "weight": 1.0}, label_weight=0.0)
    ours = summed(lskd(*signals(STUDENT, TEACHER), LABELLED, 1.0))
    theirs = called(loss, STUDENT, TEACHER, TARGETS)
    assert float(ours / theirs) == pytest.approx(1.1095, abs=1e-4)


def test_equal_logits(torchdistill):
    """A row without any deviation: its standardised logits are zero, and so is the gradient."""
    flat = torch.zeros(1, CLASSES, requires_grad=True)
    loss = of_taps(torchdistill.LogitStdKDLoss, temperature=2.0, alpha=0.1, beta=9.0)
    called(loss, flat, TEACHER[:1].float(), TARGETS[:1]).backward()
    assert float(flat.grad.abs().max()) == pytest.approx(2.17e7, rel=1e-2)  # over 1e-7
    flat.grad = None
    lskd = LSKD(variant="code", label_weight=0.0)
    rows = Rows(TARGETS[:1], torch.arange(1))
    summed(lskd(*signals(flat, TEACHER[:1].float()), rows, 1.0)).backward()
    assert not flat.grad.any()


def test_similarities(torchdistill):
    # Tung & Mori 2019, eq. 1–4: rows of Euclidean length 1. Theirs have magnitudes of sum 1: in its
    # `normalize(G, 1)` the 1 is the order of the norm.
    loss = of_outputs(torchdistill.SPKDLoss, reduction="batchmean")
    student, teacher = (x.flatten(1) for x in MAPS)
    n = len(student)

    def of_sums(x):
        grams = [one @ one.T for one in (x, teacher)]
        own, others = (gram / gram.abs().sum(1, keepdim=True) for gram in grams)
        return (own - others).square().sum() / n**2

    same(of_sums, lambda x: called(loss, x, teacher), student)
    ours, theirs = similarity_loss(student, teacher), called(loss, student, teacher)
    assert float(ours / theirs) == pytest.approx(1.3685, abs=1e-4)
    # as it is behind a ReLU, at the usual size of a batch
    student, teacher = (drawn(64, 32, seed=seed).relu() for seed in (18, 19))
    ours, theirs = similarity_loss(student, teacher), called(loss, student, teacher)
    assert float(ours / theirs) == pytest.approx(51.02, abs=1e-2)


def test_correlations_of_improbable_classes(torchdistill):
    # Huang et al. 2022: a Pearson correlation knows no scale. Student = teacher, so the loss is 0.
    logits = drawn(ROWS, 3, seed=12) - torch.tensor([0.0, 0.0, 40.0])
    loss = of_taps(torchdistill.DISTLoss, beta=0.0, gamma=1.0, tau=1.0)
    theirs = called(loss, logits, logits)
    settings = {"softening": 1.0, "teacher_softening": 1.0}
    code = intra_class_loss(logits, logits, **settings, variant="code")
    assert float(intra_class_loss(logits, logits, **settings)) == pytest.approx(0, abs=1e-12)
    # the third class counts as uncorrelated
    assert (float(theirs), float(code)) == pytest.approx((1 / 3, 1 / 3), abs=1e-6)


def test_neighbours_of_oneself(torchdistill):
    # Passalis & Tefas 2018: neighbours are other rows. In their code, and here, the row is its own.
    loss = of_taps(torchdistill.PKTLoss)
    student, teacher = EMBEDDINGS
    theirs, ours = called(loss, student, teacher), pkt_loss(student, teacher)
    assert float(ours / theirs) == pytest.approx(1.3098, abs=1e-4)


def test_an_embedding_of_zeros(torchdistill):
    student, teacher = EMBEDDINGS
    dead = student.clone()
    dead[0] = 0
    gradients = []
    for loss in (
        lambda x: called(of_taps(torchdistill.PKTLoss), x, teacher),
        lambda x: pkt_loss(x, teacher, variant="code"),
    ):
        leaf = dead.clone().requires_grad_()
        loss(leaf).backward()
        gradients.append(leaf.grad)
    assert gradients[0][0].isnan().all()
    assert gradients[1].isfinite().all()


def test_pairs_and_triplets(torchdistill):
    # Park et al. 2019, eq. 5–10: over tuples of distinct rows; theirs is over all rows² and rows³.
    student, teacher = EMBEDDINGS
    n = len(student)
    for ours, factors, part in (
        (rkd_distance_loss, (1.0, 0.0), (n - 1) / n),
        (rkd_angle_loss, (0.0, 1.0), (n - 1) * (n - 2) / n**2),
    ):
        settings = {"dist_factor": factors[0], "angle_factor": factors[1], "reduction": "mean"}
        theirs = called(of_outputs(torchdistill.RKDLoss, **settings), student, teacher)
        assert float(theirs / ours(student, teacher)) == pytest.approx(part)


def test_distances_far_from_the_origin(torchdistill):
    # ‖x‖² + ‖y‖² − 2 x · y in float32 against the distance of the difference
    student, teacher = (x.float() + 100 for x in EMBEDDINGS)
    exact = rkd_distance_loss(student.double(), teacher.double(), variant="code")
    settings = {"dist_factor": 1.0, "angle_factor": 0.0, "reduction": "mean"}
    theirs = called(of_outputs(torchdistill.RKDLoss, **settings), student, teacher)
    ours = rkd_distance_loss(student, teacher, variant="code")
    assert float(ours) == pytest.approx(float(exact), rel=1e-5)
    assert float(theirs / exact) == pytest.approx(1.0009, abs=1e-4)


def test_attention_of_the_paper(torchdistill):
    # Zagoruyko & Komodakis 2017, eq. 2: β / 2 before the distance, and in β 1 / elements of the
    # map. Theirs leaves both to the weight.
    loss = torchdistill.ATLoss(paired(), mode="paper")
    student, teacher = MAPS
    elements = student.shape[2] * student.shape[3]
    same(
        lambda x: 2 * elements * attention_loss(x, teacher).mean(),
        lambda x: called(loss, x, teacher),
        student,
    )


def test_attention_of_maps_that_agree(torchdistill):
    student = MAPS[0].clone().requires_grad_()
    called(torchdistill.ATLoss(paired(), mode="paper"), student, 2 * MAPS[0]).backward()
    assert student.grad.isfinite().all()
    with pytest.raises(RuntimeError, match="must match the size"):
        called(torchdistill.ATLoss(paired()), MAPS[0], MAPS[1][..., :4, :4])
    assert attention_loss(MAPS[0], MAPS[1][..., :4, :4]).isfinite().all()


@pytest.mark.parametrize("order", [2, None])
def test_norm_of_correlations(torchdistill, order):
    # Peng et al. 2019: ‖C_s − C_t‖² / n²; theirs does not square.
    kernel = {"type": "bilinear" if order is None else "gaussian", "gamma": 0.4, "max_p": 2}
    loss = torchdistill.CCKDLoss("tap", "tap", kernel, reduction="batchmean")
    student, teacher = EMBEDDINGS
    n = len(student)
    same(
        lambda x: correlation_distance(x, teacher, gamma=0.4, order=order).sqrt() / n,
        lambda x: called(loss, unit_length(x, 1), unit_length(teacher, 1)),
        student,
    )


def test_lengths_before_correlations(torchdistill):
    # The Gaussian kernel's exp(−2γ) presumes unit vectors; theirs takes what it gets.
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    loss = torchdistill.CCKDLoss("tap", "tap", kernel, reduction="batchmean")
    student, teacher = EMBEDDINGS
    ours = correlation_distance(student, teacher, gamma=0.4, order=2).sqrt() / len(student)
    assert float(called(loss, student, teacher) / ours) == pytest.approx(37.93, abs=1e-2)


def test_epsilon_of_the_critic(torchdistill):
    # Tian et al. 2020, eq. 19: none. Theirs adds 1e-7 to P + K / M, so up to M · 1e-7 per side.
    samples, negatives, units = 50_000, 64, 8
    memory = F.normalize(drawn(100, units, seed=13))
    own = F.normalize(drawn(4, units, seed=14))
    candidates = torch.randint(100, (4, negatives + 1), generator=torch.Generator().manual_seed(0))
    scores = (own[:, None] * memory[candidates]).sum(2) / 0.07
    log_z = float((scores.exp().mean() * 100).log())
    ours = noise_contrastive_loss(scores, log_partition=log_z, samples=samples).mean()
    values = []
    for epsilon in (0.0, 1e-7):
        loss = torchdistill.CRDLoss(
            "tap", "ids", "tap", units, 100, negatives, num_samples=samples, eps=epsilon
        ).double()
        loss.memory_v1.copy_(memory)
        loss.memory_v2.copy_(memory)
        given = {"pos_idx": torch.arange(4), "contrast_idx": candidates}
        values.append(float(loss({**io(own), "ids": {"input": given}}, io(own)).squeeze()))
    assert values[0] == pytest.approx(2 * float(ours), rel=1e-5)
    assert values[1] - values[0] == pytest.approx(0.0088, abs=1e-4)


def test_negatives_that_nobody_gave(torchdistill):
    loss = torchdistill.CRDLoss("tap", "ids", "tap", 4, 10, 3, num_samples=10)
    own = F.normalize(drawn(2, 4, seed=15, dtype=torch.float32))
    with pytest.raises(AttributeError, match="prob"):
        loss({**io(own), "ids": {"input": {"pos_idx": torch.arange(2)}}}, io(own))


def test_maps_that_are_not_square(torchdistill):
    # The pools of a map that is narrower than the pool repeat pixels; we leave such a pool out.
    student, teacher = (drawn(4, 3, 8, 2, seed=seed) for seed in (16, 17))
    loss = of_taps(torchdistill.HierarchicalContextLoss)
    theirs = called(loss, (student, None), teacher)
    ours = hierarchical_context_loss(student, teacher).mean()
    assert (float(ours), float(theirs)) == pytest.approx((1.5154, 1.4920), abs=1e-4)


def test_a_variance_of_a_hundred(torchdistill_models):
    regressor = torchdistill_models.Regressor4VID(3, 5, 5, eps=1e-5, init_pred_var=100.0)
    assert regressor(MAPS[0].float())[1].isinf().all()  # log(1 + exp(100)) in float32
    vid = made(VID(initial_variance=100.0), [MAPS[0]], [MAPS[1]]).float()
    torch.testing.assert_close(vid.regressors[0].variance, torch.full((5,), 100.0))


def test_relation_of_channels(torchdistill):
    """DIST+ adds the channels' correlation where the others are 1 − correlation."""
    maps = MAPS[0]
    loss = torchdistill.DISTPlusLoss(
        *("tap", "output") * 2, *("map", "output") * 2, beta=0, gamma=0, iota=1.0, kappa=0
    )
    values = []
    for student in (maps, -maps):
        recorded = [{**io(STUDENT), "map": {"output": features}} for features in (student, maps)]
        values.append(float(loss(*recorded)))
    assert values == pytest.approx([1.0, -1.0])  # lowest where they are opposite


@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_softened_jensen_shannon(trl, tau):
    # Agarwal et al. 2024, eq. 1: no softening, so no τ² either; ours carries it over from KD.
    settings = {"beta": 0.5, "softening": tau, "teacher_softening": tau}
    ours = softened_jensen_shannon(*signals(STUDENT, TEACHER), **settings).mean()
    theirs = trl.GKDTrainer.generalized_jsd_loss(STUDENT, TEACHER, beta=0.5, temperature=tau)
    assert float(ours / theirs) == pytest.approx(tau**2)


def test_ends_of_jensen_shannon(trl):
    # Agarwal et al. 2024, eq. 1: 0 at β = 0 and 1. Theirs has the two KL divergences there.
    settings = {"softening": 1.0, "teacher_softening": 1.0}
    for beta, divergence in ((0, softened_kl), (1, softened_reverse_kl)):
        ours = divergence(*signals(STUDENT, TEACHER), **settings).mean()
        theirs = trl.GKDTrainer.generalized_jsd_loss(STUDENT, TEACHER, beta=beta)
        assert float(theirs) == pytest.approx(float(ours))
        with pytest.raises(UserError, match="beta"):
            JensenShannon(beta=beta)


def test_tokens_without_labels(trl):
    """Without labels a batch of sequences is divided by the sequences, not by their tokens."""
    student, teacher = (z.view(4, ROWS // 4, CLASSES) for z in (STUDENT, TEACHER))
    labels = torch.zeros(4, ROWS // 4, dtype=torch.int64)
    values = [
        float(trl.GKDTrainer.generalized_jsd_loss(student, teacher, labels=given))
        for given in (None, labels)
    ]
    assert values[0] / values[1] == pytest.approx(ROWS // 4)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cross_entropy_with_the_teacher(textbrewer, tau):
    # Hinton et al. 2015, §2: the cross-entropy and τ². Ours is less by the teacher's entropy.
    theirs = textbrewer.kd_ce_loss(STUDENT, TEACHER, temperature=tau)
    target = F.softmax(TEACHER / tau, dim=1)
    entropy = -(target * F.log_softmax(TEACHER / tau, dim=1)).sum(1).mean()
    ours = softened_kl(*signals(STUDENT, TEACHER), softening=tau, teacher_softening=tau).mean()
    assert float(ours) == pytest.approx(float(tau**2 * (theirs - entropy)))


def test_softened_logits(textbrewer):
    # The mean squared difference of z / τ, without τ².
    theirs = textbrewer.kd_mse_loss(STUDENT, TEACHER, temperature=4.0)
    ours = squared_logit_error(STUDENT, TEACHER).mean()
    assert float(ours / theirs) == pytest.approx(4**2)


def test_lengths_before_selectivity(textbrewer):
    # Huang & Wang 2017: each channel at unit length; theirs takes the activations as they are.
    student, teacher = MAPS
    pixels = student.shape[2] * student.shape[3]
    states = ([maps.flatten(2).mT] * 2 for maps in (student, teacher))
    theirs = pixels**2 * textbrewer.mmd_loss(*states)
    ours = selectivity_loss(student, teacher).mean()
    assert float(theirs / ours) == pytest.approx(4198, rel=1e-3)
