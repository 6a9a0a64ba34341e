"""Advantages from rewards, as plain functions of arrays.

rewards [B] is one number per row and groups [B] the label of each row's prompt; token arrays are [B, T], column t the
token's own, with mask [B, T] (0 or 1). What stands at a masked token is not read, and its result is 0. Standard
deviations divide by n - 1; of fewer than two numbers they are 0.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .numerics import exp

Array = NDArray[Any]


def numbers(values: ArrayLike) -> list[float]:
    """A one-dimensional array as floats."""
    return [float(x) for x in np.asarray(values)]


def mean(values: list[float]) -> float:
    """sum / n."""
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    """sqrt(sum (x - mean)^2 / (n - 1)); exactly 0 for n < 2 and for equal values, whatever their mean is rounded to."""
    if len(values) < 2 or min(values) == max(values):
        return 0.0
    return math.sqrt(sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1))


def members(groups: ArrayLike) -> list[list[int]]:
    """For each row, the rows of its group, itself among them."""
    labels = list(np.asarray(groups))
    return [[j for j, other in enumerate(labels) if other == label] for label in labels]


def trained_columns(mask: ArrayLike, row: int) -> list[int]:
    """The columns of the row with mask != 0, in order."""
    return [t for t, m in enumerate(np.asarray(mask)[row]) if float(m) != 0.0]


def check_singleton(singleton: str) -> None:
    """A group of one row has advantage 0 (zero) or its reward (reward)."""
    if singleton not in ("zero", "reward"):
        raise ValueError(f"unknown singleton {singleton!r}")


# --- one number per row -----------------------------------------------------------------------------------------


def grpo_advantages(rewards: ArrayLike, groups: ArrayLike, *, epsilon: float = 1e-6, singleton: str = "zero") -> Array:
    """[B]: (r - group mean) / (group deviation + epsilon)."""
    check_singleton(singleton)
    r = numbers(rewards)
    result = np.zeros(len(r))
    for i, group in enumerate(members(groups)):
        if len(group) > 1:
            peers = [r[j] for j in group]
            result[i] = (r[i] - mean(peers)) / (deviation(peers) + epsilon)
        elif singleton == "reward":
            result[i] = r[i]
    return result


def grpo_leave_one_out_advantages(
    rewards: ArrayLike, groups: ArrayLike, *, valid: ArrayLike | None = None, epsilon: float = 1e-6
) -> Array:
    """[B]: r - m, over (s + epsilon) where s > 0; m and s the mean and deviation of the group's other rows.

    Rows that are not valid are in no mean and get 0, as does a row without another one.
    """
    r = numbers(rewards)
    usable = [True] * len(r) if valid is None else [x != 0.0 for x in numbers(valid)]
    result = np.zeros(len(r))
    for i, group in enumerate(members(groups)):
        others = [r[j] for j in group if j != i and usable[j]]
        if usable[i] and others:
            scale = deviation(others)
            result[i] = (r[i] - mean(others)) / (scale + epsilon if scale > 0.0 else 1.0)
    return result


def dr_grpo_advantages(rewards: ArrayLike, groups: ArrayLike) -> Array:
    """[B]: r - group mean."""
    r = numbers(rewards)
    return np.array([r[i] - mean([r[j] for j in group]) for i, group in enumerate(members(groups))])


def batch_scaled_advantages(rewards: ArrayLike, groups: ArrayLike, *, epsilon: float = 1e-4) -> Array:
    """[B]: (r - group mean) / (deviation of all rewards + epsilon)."""
    return dr_grpo_advantages(rewards, groups) / (deviation(numbers(rewards)) + epsilon)


def rloo_advantages(rewards: ArrayLike, groups: ArrayLike, *, singleton: str = "zero") -> Array:
    """[B]: r - mean of the group's other rows."""
    check_singleton(singleton)
    r = numbers(rewards)
    result = np.zeros(len(r))
    for i, group in enumerate(members(groups)):
        if len(group) > 1:
            result[i] = r[i] - mean([r[j] for j in group if j != i])
        elif singleton == "reward":
            result[i] = r[i]
    return result


def opo_advantages(rewards: ArrayLike, lengths: ArrayLike, groups: ArrayLike) -> Array:
    """[B]: r - sum_j len_j r_j / max(sum_j len_j, 1) over the group."""
    r, n = numbers(rewards), numbers(lengths)
    result = np.zeros(len(r))
    for i, group in enumerate(members(groups)):
        result[i] = r[i] - sum(n[j] * r[j] for j in group) / max(sum(n[j] for j in group), 1.0)
    return result


def gpg_advantages(rewards: ArrayLike, groups: ArrayLike, *, f_norm: float = 1.0) -> Array:
    """[B]: alpha (r - group mean) / f_norm, alpha = B / max(number of rewards other than 0, 1)."""
    r = numbers(rewards)
    alpha = len(r) / max(sum(1 for x in r if x != 0.0), 1)
    return alpha * dr_grpo_advantages(rewards, groups) / f_norm


def grpo_passk_advantages(rewards: ArrayLike, groups: ArrayLike, *, epsilon: float = 1e-6) -> Array:
    """[B]: (best - second) / (group deviation + epsilon) for the group's best row, the first of equals; 0 elsewhere.

    A group of one row has no second, and gets 0.
    """
    r = numbers(rewards)
    result = np.zeros(len(r))
    for i, group in enumerate(members(groups)):
        ranked = sorted(group, key=lambda j: (-r[j], j))
        if len(group) > 1 and ranked[0] == i:
            result[i] = (r[i] - r[ranked[1]]) / (deviation([r[j] for j in group]) + epsilon)
    return result


def gdpo_advantages(
    rewards: ArrayLike, groups: ArrayLike, *, weights: ArrayLike | None = None, epsilon: float = 1e-4
) -> Array:
    """[B] from rewards [B, R]: each reward as in grpo, their weighted sum x, then (x - mean) / (deviation + epsilon).

    The last mean and deviation are over the whole batch; weights are 1 where not given.
    """
    columns = np.asarray(rewards, dtype=np.float64)
    scale = [1.0] * columns.shape[1] if weights is None else numbers(weights)
    total = np.zeros(columns.shape[0])
    for k, weight in enumerate(scale):
        total += weight * grpo_advantages(columns[:, k], groups, epsilon=epsilon)
    x = numbers(total)
    return (total - mean(x)) / (deviation(x) + epsilon)


# --- one number per token ---------------------------------------------------------------------------------------


def reward_advantages(rewards: ArrayLike, mask: ArrayLike) -> Array:
    """[B, T]: the row's reward at each trained token."""
    result = np.zeros(np.shape(mask))
    for b, r in enumerate(numbers(rewards)):
        for t in trained_columns(mask, b):
            result[b, t] = r
    return result


def opd_advantages(teacher_logprobs: ArrayLike, old_logprobs: ArrayLike, mask: ArrayLike) -> Array:
    """[B, T]: log-prob of the teacher less that of the old policy."""
    teacher, old = np.asarray(teacher_logprobs), np.asarray(old_logprobs)
    result = np.zeros(np.shape(mask))
    for b in range(len(result)):
        for t in trained_columns(mask, b):
            result[b, t] = float(teacher[b, t]) - float(old[b, t])
    return result


def reward_to_go(rewards: ArrayLike, mask: ArrayLike, *, gamma: float = 1.0) -> Array:
    """[B, T]: G_t = r_t + gamma G at the row's next trained token; masked tokens are no steps."""
    r = np.asarray(rewards)
    result = np.zeros(np.shape(mask))
    for b in range(len(result)):
        following = 0.0
        for t in reversed(trained_columns(mask, b)):
            following = float(r[b, t]) + gamma * following
            result[b, t] = following
    return result


def whitened(values: ArrayLike, mask: ArrayLike, *, biased: bool = False) -> Array:
    """[B, T]: (x - mean) / sqrt(var + 1e-8) over all trained tokens, var with n - 1 (0 for n < 2).

    biased: var with n, and sqrt(max(var, 1e-8)).
    """
    x = np.asarray(values)
    places = [(b, t) for b in range(len(x)) for t in trained_columns(mask, b)]
    result = np.zeros(np.shape(mask))
    if not places:
        return result
    taken = [float(x[place]) for place in places]
    squares = sum((value - mean(taken)) ** 2 for value in taken)
    variance = max(squares / len(taken), 1e-8) if biased else squares / max(len(taken) - 1, 1) + 1e-8
    for place, value in zip(places, taken, strict=True):
        result[place] = (value - mean(taken)) / math.sqrt(variance)
    return result


def reinforce_plus_plus_advantages(
    rewards: ArrayLike, mask: ArrayLike, *, gamma: float = 1.0, biased: bool = False
) -> Array:
    """[B, T] from token rewards: reward_to_go, whitened."""
    return whitened(reward_to_go(rewards, mask, gamma=gamma), mask, biased=biased)


def reinforce_plus_plus_baseline_advantages(
    rewards: ArrayLike, groups: ArrayLike, mask: ArrayLike, *, biased: bool = False
) -> Array:
    """[B, T] from row rewards: r - group mean at each trained token, whitened."""
    return whitened(reward_advantages(dr_grpo_advantages(rewards, groups), mask), mask, biased=biased)


def remax_advantages(rewards: ArrayLike, mask: ArrayLike, greedy_rewards: ArrayLike) -> Array:
    """[B, T] from token rewards: reward_to_go less the reward [B] of the row's greedy response."""
    return reward_to_go(rewards, mask) - reward_advantages(greedy_rewards, mask)


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float = 1.0,
    lambda_: float | ArrayLike = 1.0,
    carry: bool = True,
) -> tuple[Array, Array]:
    """(A, returns), each [B, T]: A_t = d_t + gamma lambda A_{t+1}, d_t = r_t + gamma V_{t+1} - V_t, returns = A + V.

    t + 1 is the row's next trained token (carry), or the next column, with r, V = 0 at masked ones (not carry). After
    the last V and A are 0. lambda_ may be [B].
    """
    r, v = np.asarray(rewards), np.asarray(values)
    rows, width = np.shape(mask)
    rates = numbers(np.broadcast_to(np.asarray(lambda_, dtype=np.float64), (rows,)))
    advantages, returns = np.zeros((rows, width)), np.zeros((rows, width))
    for b in range(rows):
        trained = trained_columns(mask, b)
        next_value = next_advantage = 0.0
        for t in reversed(trained if carry else range(width)):
            reward, value = (float(r[b, t]), float(v[b, t])) if t in trained else (0.0, 0.0)
            next_advantage = reward + gamma * next_value - value + gamma * rates[b] * next_advantage
            next_value = value
            if t in trained:
                advantages[b, t] = next_advantage
                returns[b, t] = next_advantage + value
    return advantages, returns


def vapo_gae(
    rewards: ArrayLike,
    values: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float = 1.0,
    value_lambda: float = 1.0,
    alpha: float = 0.05,
) -> tuple[Array, Array]:
    """(A, returns): A of gae at lambda = max(0, 1 - 1 / (alpha len)) of each row, returns of gae at value_lambda.

    len is the row's number of trained tokens.
    """
    rates = []
    for b in range(len(np.asarray(mask))):
        length = len(trained_columns(mask, b))
        rates.append(max(0.0, 1.0 - 1.0 / (alpha * length)) if length else 0.0)
    advantages = gae(rewards, values, mask, gamma=gamma, lambda_=rates)[0]
    return advantages, gae(rewards, values, mask, gamma=gamma, lambda_=value_lambda)[1]


def optimal_token_baseline_advantages(
    rewards: ArrayLike,
    mask: ArrayLike,
    groups: ArrayLike,
    logprobs: ArrayLike,
    sum_of_squares: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    align: str = "position",
    epsilon: float = 1e-8,
) -> Array:
    """[B, T] from token rewards: G_t - B_t, B_t = sum G_t W_t / (sum W_t + epsilon) over the group's rows.

    G is reward_to_go; W_t = sum over the row's trained s <= t of 1 - 2 pi_s + sum_v pi_v^2, with pi_s = exp(logprobs)
    of the token taken and sum_of_squares [B, T], each term times weights[b,s]^2 where given. A group of one row has no
    baseline. The sums at the token t of a row take from each row
    position       its token in the same column, if that is trained
    trained_token  its k-th trained token, if it has so many, where t is the k-th of its own row: for responses with
                   the output of tools, untrained, in between
    """
    if align not in ("position", "trained_token"):
        raise ValueError(f"unknown align {align!r}")
    to_go = reward_to_go(rewards, mask)
    lp, squares = np.asarray(logprobs), np.asarray(sum_of_squares)
    path = np.zeros(to_go.shape)
    for b in range(len(to_go)):
        so_far = 0.0
        for t in trained_columns(mask, b):
            scale = 1.0 if weights is None else float(np.asarray(weights)[b, t]) ** 2
            so_far += scale * (1.0 - 2.0 * exp(float(lp[b, t])) + float(squares[b, t]))
            path[b, t] = so_far
    result = np.zeros(to_go.shape)
    for b, group in enumerate(members(groups)):
        for k, t in enumerate(trained_columns(mask, b)):
            baseline = 0.0
            if len(group) > 1:
                here = []
                for j in group:
                    trained = trained_columns(mask, j)
                    if align == "position" and t in trained:
                        here.append((j, t))
                    elif align == "trained_token" and k < len(trained):
                        here.append((j, trained[k]))
                total = sum(float(path[place]) for place in here)
                baseline = sum(float(to_go[place] * path[place]) for place in here) / (total + epsilon)
            result[b, t] = float(to_go[b, t]) - baseline
    return result
