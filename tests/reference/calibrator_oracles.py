"""Slow oracles of the parametric calibrators: each objective as it is written, left to SciPy.

Every oracle takes logits, targets and the rows' weights, and gives log-probabilities of other rows.
"""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_expit, log_softmax, logsumexp, softmax


def nll(log_p, targets, share):
    return -np.average(log_p[np.arange(len(targets)), targets], weights=share)


def lowest(objective, start, bounds=None):
    """Where SciPy finds the minimum, told nothing but values."""
    found = minimize(
        objective,
        np.asarray(start, dtype=float),
        jac="3-point",
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-16, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10**6},
    )
    return found.x


def temperature(z, y, share):
    def of_log(log_t):
        return nll(log_softmax(z / np.exp(log_t), axis=1), y, share)

    found = minimize_scalar(of_log, bounds=(-8, 8), method="bounded", options={"xatol": 1e-11})
    return np.exp(found.x)


def mapped(scores, masked):
    return log_softmax(np.where(masked, -np.inf, scores), axis=1)


def vector(z, y, share, at, *, scale=1.0, intercept=0.1):
    classes = z.shape[1]
    t = temperature(z, y, share)

    def predict(theta, rows):
        masked = rows == -np.inf
        return mapped(np.where(masked, 0, rows) / t * theta[:classes] + theta[classes:], masked)

    def objective(theta):
        penalty = scale * np.mean((theta[:classes] - 1) ** 2)
        return (
            nll(predict(theta, z), y, share) + penalty + intercept * np.mean(theta[classes:] ** 2)
        )

    return predict(lowest(objective, [1] * classes + [0] * classes), at)


def matrix(z, y, share, at, *, off_diagonal=None, intercept=0.1, diagonal=1.0, inputs=None):
    classes = z.shape[1]
    t = temperature(z, y, share)
    inputs = inputs or (lambda rows: rows)
    off_diagonal = off_diagonal or 0.1 * classes * (classes - 1)

    def split(theta):
        return theta[: classes**2].reshape(classes, classes), theta[classes**2 :]

    def predict(theta, rows):
        w, b = split(theta)
        return log_softmax(inputs(rows / t) @ w.T + b, axis=1)

    def objective(theta):
        w, b = split(theta)
        off = w[~np.eye(classes, dtype=bool)]
        return (
            nll(predict(theta, z), y, share)
            + off_diagonal * np.mean(off**2)
            + intercept * np.mean(b**2)
            + diagonal * np.mean((np.diag(w) - 1) ** 2)
        )

    start = np.append(np.eye(classes).ravel(), np.zeros(classes))
    return predict(lowest(objective, start), at)


def dirichlet(z, y, share, at):
    return matrix(z, y, share, at, inputs=lambda rows: log_softmax(rows, axis=1))


def ensemble(z, y, share, at):
    t = temperature(z, y, share)

    def answers(rows):
        open_classes = rows > -np.inf
        uniform = open_classes / open_classes.sum(1, keepdims=True)
        return np.stack([softmax(rows / t, axis=1), softmax(rows, axis=1), uniform])

    def predict(theta, rows):
        with np.errstate(divide="ignore"):  # masked classes
            return np.log(np.tensordot(softmax(theta), answers(rows), 1))

    # the softmax of any two numbers and a 0 is a point of the simplex; its border is far out
    def objective(theta):
        return nll(predict(np.append(theta, 0), z), y, share)

    return predict(np.append(lowest(objective, [0, 0], bounds=[(-40, 40)] * 2), 0), at)


def adaptive(z, y, share, at, *, shrinkage=0.01):
    t = temperature(z, y, share)

    def features(rows):
        columns = []
        for row in rows:
            m = row[row > -np.inf] / t
            p = softmax(m)
            columns.append((-(p * np.log(p)).sum(), np.log(1 + np.std(m))))
        return np.array(columns)

    seen = features(z)
    mean = np.average(seen, axis=0, weights=share)
    deviation = np.sqrt(np.average((seen - mean) ** 2, axis=0, weights=share))

    def predict(theta, rows, of_rows):
        inside = np.clip(of_rows, seen.min(0), seen.max(0))
        log_t = theta[0] + (inside - mean) / deviation @ theta[1:]
        return log_softmax(rows / np.exp(log_t)[:, None], axis=1)

    def objective(theta):
        return nll(predict(theta, z, seen), y, share) + shrinkage * (theta[1:] ** 2).sum()

    return predict(lowest(objective, [np.log(t), 0, 0]), at, features(at))


def predicted_class(z, y, share, at, *, shrinkage=1.0):
    t = temperature(z, y, share)

    def predict(theta, rows):
        return log_softmax(rows / np.exp(theta)[rows.argmax(1), None], axis=1)

    def objective(theta):
        return nll(predict(theta, z), y, share) + shrinkage * np.mean((theta - np.log(t)) ** 2)

    return predict(lowest(objective, [np.log(t)] * z.shape[1]), at)


def log_odds(z):
    """Class by class: its logit less the log-sum-exp of the others."""
    rest = [logsumexp(np.delete(z, k, axis=1), axis=1) for k in range(z.shape[1])]
    return z - np.stack(rest, axis=1)


def one_vs_rest(z, y, share, at, evidence, *, slope=1.0, intercept=0.1):
    t = temperature(z, y, share)
    classes = z.shape[1]
    answers = np.empty(at.shape)
    for k in range(classes):
        fitted = z[:, k] > -np.inf
        seen, hit = evidence(log_odds(z / t)[fitted, k]), y[fitted] == k
        weight = share[fitted] / share.sum()

        def objective(theta, seen=seen, hit=hit, weight=weight):
            score = theta[:-1] @ seen + theta[-1]
            loss = -(weight * np.where(hit, log_expit(score), log_expit(-score))).sum()
            penalty = slope * ((theta[:-1] - 1) ** 2).sum() + intercept * theta[-1] ** 2
            return loss + penalty / classes

        slopes = len(seen)
        bounds = [(0, None)] * slopes + [(None, None)]
        theta = lowest(objective, [1] * slopes + [0], bounds)
        usable = at[:, k] > -np.inf
        answers[~usable, k] = -np.inf
        answers[usable, k] = log_expit(
            theta[:-1] @ evidence(log_odds(at / t)[usable, k]) + theta[-1]
        )
    return log_softmax(answers, axis=1)


def platt(z, y, share, at):
    return one_vs_rest(z, y, share, at, lambda odds: odds[None])


def beta(z, y, share, at):
    return one_vs_rest(z, y, share, at, lambda odds: np.stack([log_expit(odds), -log_expit(-odds)]))
