"""Vote, contrast and threshold, one photograph and one landmark at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_of_nearest(query: NDArray[np.float32], bank: NDArray[np.float32], n: int) -> float:
    similarities = sorted((float(query @ one) for one in bank), reverse=True)[:n]
    return sum(similarities) / len(similarities) if similarities else 0.0


def vote(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    codes: Sequence[int],
    bank: NDArray[np.float32],
    *,
    k: int,
    way: dict[str, Any],
    counts: float,
    n: int,
    row_correction: float,
    query_correction: float,
) -> list[tuple[int, float]]:
    """Landmarks and their values, best first."""
    near = sorted(range(len(gallery)), key=lambda row: (-float(query @ gallery[row]), row))[:k]
    k = min(k, len(near))
    values = []
    for code in sorted({codes[row] for row in near}):
        own = [row for row in near if codes[row] == code]
        weights = [_weight(way, query, gallery, near, own, row) for row in own]
        corrections = [mean_of_nearest(gallery[row], bank, n) for row in own]
        total = sum(weights)
        value = total ** (1 / way["power"]) if way["kind"] == "powered" else total
        mean = len(codes) / len(set(codes))
        value /= (list(codes).count(code) / mean) ** counts
        if total > 0:
            weighted = sum(w * c for w, c in zip(weights, corrections, strict=True))
            value -= row_correction * weighted / total
        value -= query_correction * mean_of_nearest(query, bank, n)
        values.append((code, value))
    return sorted(values, key=lambda one: -one[1])


def _weight(
    way: dict[str, Any],
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    near: list[int],
    own: list[int],
    row: int,
) -> float:
    similarity = float(query @ gallery[row])
    if way["kind"] == "majority":
        return 1 / len(near)
    if way["kind"] == "weighted":
        return max(similarity, 0.0) / len(near)
    if way["kind"] == "powered":
        return float(max(similarity, 0.0) ** way["power"])
    if way["kind"] == "softmax":
        powers = [math.exp(float(query @ gallery[one]) / way["temperature"]) for one in near]
        return math.exp(similarity / way["temperature"]) / sum(powers)
    if way["kind"] == "ranked":
        return 1 / (near.index(row) + 1) / sum(1 / (i + 1) for i in range(len(near)))
    assert way["kind"] == "top"
    return max(similarity, 0.0) / way["few"] if own.index(row) < way["few"] else 0.0


def contrast(margins: Sequence[float], bank: float, temperature: float) -> list[float]:
    values = []
    for place, margin in enumerate(margins):
        rivals = [other for i, other in enumerate(margins) if i != place] + [bank, -1.0]
        soft = temperature * math.log(sum(math.exp(one / temperature) for one in rivals))
        values.append(margin - soft)
    return values


def accepted_gain(confidence: Sequence[float], gain: Sequence[float], threshold: float) -> float:
    return sum(g for c, g in zip(confidence, gain, strict=True) if c >= threshold)


def fusion(
    rankings: Sequence[dict[int, float]], learnt: dict[str, Any], count: int
) -> list[tuple[int, float]]:
    """Landmarks and the log-odds of a softmax over strengths and none, best first."""
    strengths = {}
    for code in sorted({one for ranking in rankings for one in ranking if one >= 0}):
        strength = learnt["offset"]
        for member, ranking in enumerate(rankings):
            odds = learnt["floors"][member]
            if code in ranking:
                value = learnt["slopes"][member] * ranking[code] + learnt["offsets"][member]
                odds = max(odds, value)
            strength += learnt["weights"][member] * odds
        strengths[code] = strength
    best = sorted(strengths.items(), key=lambda one: -one[1])[:count]
    values = []
    for code, strength in best:
        rivals = [0.0, *(other for rival, other in best if rival != code)]
        values.append((code, strength - math.log(sum(math.exp(one) for one in rivals))))
    return values


def signal_matrix(
    candidates: list[int],
    values: list[float],
    gallery: list[tuple[float, int]],
    bank: list[float],
    least: float,
) -> dict[str, float]:
    """What speaks for a query's first candidate; similarities and landmarks of all photographs."""
    answer = candidates[0]
    near = sorted(gallery, key=lambda one: -one[0])[:50]
    nearest_bank = sorted(bank, reverse=True)[:10]
    second = [value for value in values[1:] if value > -math.inf]
    own = [similarity for similarity, code in near if code == answer]
    match = max(own) if own else min(similarity for similarity, _ in near)
    tail = sorted([one for one, code in near if code != answer] + nearest_bank, reverse=True)[:20]
    floor = max(min(tail), 0.0) if tail else 0.0
    excess = sum(max(one - floor, 0.0) for one in tail) / max(len(tail) - 1, 1)
    chance = (match - floor) / max(excess, 1e-2)
    return {
        "confidence": values[0],
        "margin": values[0] - (second[0] if second else min(least, values[0])),
        "agreement": sum(max(one, 0.0) for one, code in near[:10] if code == answer) / 10,
        "tail": chance,
        "bank": sum(nearest_bank) / len(nearest_bank) if nearest_bank else 0.0,
        "nearest": match,
    }
