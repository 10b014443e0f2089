"""Several classifiers' scores made one, by weights learnt on photographs that none has seen.

Each member's values become log-odds by a Platt curve through its held-out candidates, right ones
and wrong ones; a landmark that a member does not rank has the lowest log-odds that the member's
held-out candidates commonly have. A landmark's strength is the weighted sum of its members'
log-odds and an offset, and its probability is that of a softmax over the strengths of all
candidates and a strength of zero, for none of them: McFadden's conditional logit ("Conditional
logit analysis of qualitative choice behavior", 1974). Weights, never negative, and offset maximise
the likelihood of the held-out photographs' landmarks, and of none for the bank's.

Instead of weights, boosted trees may be learnt (``stacked``: D. Wolpert, "Stacked generalization",
1992): for every landmark that a member ranks, the log-odds that it is right, by the members'
log-odds, how far these lie below each member's best, the landmark's ranks, and how many members
rank it.

Held-out scores of the ensemble are cross-fitted: the photographs are dealt into parts, and each
part is scored by what was learnt on the others.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from retrieval.classifiers.base import PARTS, Classifier, HeldOut, Scores
from retrieval.classifiers.calibration import Platt
from retrieval.classifiers.members import KINDS, Fitting, MemberConfig
from retrieval.classifiers.svm import contrast
from retrieval.classifiers.trees import TIES, Trees
from retrieval.classifiers.vote import Groups
from retrieval.descriptors.representation import Representation
from retrieval.index.gallery import Gallery, GalleryChange
from retrieval.index.neighbours import Neighbours
from retrieval.storage.files import read_json, reading, write_json
from retrieval.types import Flags, Integers, PartName, StrictModel, Vectors

FILE: Final = "ensemble.json"
FLOOR: Final = 0.05
"""Share of a member's wrong held-out candidates whose log-odds lie below its floor."""

Reals = NDArray[np.float64]


class EnsembleConfig(StrictModel):
    """Members, and how one ranking is made of theirs.

    Attributes:
        members: by name; each is fitted as it would be alone.
        fusion: by weights, or by boosted trees.
        candidates: landmarks taken of each member, and ranked for a photograph.
        penalty: of the squared distance of the weights from equal ones, which sum to one; as
            many photographs' log-likelihood.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: dict[PartName, MemberConfig]
    fusion: Literal["weighted", "stacked"] = "weighted"
    candidates: int = Field(default=10, ge=1, le=1000)
    penalty: float = Field(default=30.0, ge=0.0, le=1e6)

    @field_validator("members")
    @classmethod
    def _several(cls, members: dict[str, MemberConfig]) -> dict[str, MemberConfig]:
        if not members:
            raise ValueError("name at least one")
        return members

    @property
    def k(self) -> int:
        """The most neighbours that a member looks at."""
        return max(getattr(one, "k", 1) for one in self.members.values())


class WeightedFusion(StrictModel):
    """What is learnt: a Platt curve's slope and offset, a floor and a weight a member."""

    slopes: list[float]
    offsets: list[float]
    floors: list[float]
    weights: list[float]
    offset: float

    @classmethod
    def fit(cls, held: Sequence[HeldOut], config: EnsembleConfig) -> WeightedFusion:
        """Learn from the members' held-out scores of the same photographs.

        Without a right candidate, or a wrong one, the members count alike.
        """
        curves = [_curve(one, config.candidates) for one in held]
        equal = 1.0 / len(held)
        fusion = cls(
            slopes=[platt.slope for platt, _ in curves],
            offsets=[platt.offset for platt, _ in curves],
            floors=[floor for _, floor in curves],
            weights=[equal] * len(held),
            offset=0.0,
        )
        groups, odds = fusion.gathered([_joined(one) for one in held], config.candidates)
        right = groups.code == _truth(held[0])[groups.query]
        if right.all() or not right.any():
            return fusion
        weights, offset = _likeliest(groups, odds, right, _weights(held[0]), config.penalty)
        return fusion.model_copy(update={"weights": weights.tolist(), "offset": offset})

    def gathered(self, scores: Sequence[Scores], candidates: int) -> tuple[Groups, Reals]:
        """The (g, m) log-odds by each of m members of the landmarks that any of them ranks."""
        parts = [one.candidates[:, :candidates] for one in scores]
        groups = Groups.gather(np.concatenate(parts, axis=1))
        odds = np.empty((len(groups.starts), len(parts)))
        start = 0
        for member, (part, one) in enumerate(zip(parts, scores, strict=True)):
            floor = self.floors[member]
            found = np.full(groups.shape, -np.inf)
            values = one.values[:, :candidates].astype(np.float64)
            found[:, start : start + part.shape[1]] = np.maximum(
                self.slopes[member] * values + self.offsets[member], floor
            )
            odds[:, member] = np.maximum(groups.most(found), floor)
            start += part.shape[1]
        return groups, odds

    def strengths(self, odds: Reals) -> Reals:
        """(g,) of (g, m) log-odds."""
        strengths: Reals = odds @ np.array(self.weights) + self.offset
        return strengths

    def fused(self, scores: Sequence[Scores], candidates: int) -> Scores:
        """One ranking of the members' rankings of the same photographs."""
        groups, odds = self.gathered(scores, candidates)
        strengths = self.strengths(odds)
        ranked = groups.ranked(strengths.astype(np.float32), odds.max(axis=1, initial=-np.inf))
        best = Scores(ranked.candidates[:, :candidates], ranked.values[:, :candidates])
        return Scores(best.candidates, contrast(best.values, np.zeros((len(best), 1)), 1.0))


class StackedFusion(StrictModel):
    """What is learnt: trees; the weighted fusion gives them the log-odds, and settles ties."""

    weighted: WeightedFusion
    trees: Trees

    @classmethod
    def fit(cls, held: Sequence[HeldOut], config: EnsembleConfig) -> Fusion:
        """Learn from the members' held-out scores of the same photographs.

        Of a few photographs nothing is learnt but weights.
        """
        weighted = WeightedFusion.fit(held, config)
        scores = [_joined(one) for one in held]
        groups, odds = weighted.gathered(scores, config.candidates)
        inputs = _inputs(groups, odds, scores, config.candidates)
        right = groups.code == _truth(held[0])[groups.query]
        trees = Trees.fit(inputs, right, _weights(held[0])[groups.query])
        return weighted if trees is None else cls(weighted=weighted, trees=trees)

    def fused(self, scores: Sequence[Scores], candidates: int) -> Scores:
        """One ranking of the members' rankings of the same photographs."""
        groups, odds = self.weighted.gathered(scores, candidates)
        strengths = self.weighted.strengths(odds)
        values = self.trees.log_odds(_inputs(groups, odds, scores, candidates)) + TIES * strengths
        ranked = groups.ranked(values.astype(np.float32), strengths.astype(np.float32))
        return Scores(ranked.candidates[:, :candidates], ranked.values[:, :candidates])


Fusion = WeightedFusion | StackedFusion
FUSIONS: Final[dict[str, type[Fusion]]] = {"weighted": WeightedFusion, "stacked": StackedFusion}


class _SavedEnsemble(StrictModel):
    """What ensemble.json holds; its keys are sorted, what was learnt goes by ``order``."""

    order: list[str]
    config: EnsembleConfig
    fusion: Fusion


@dataclass(frozen=True)
class EnsembleClassifier:
    """A fitted ensemble.

    Attributes:
        config: its constants.
        members: fitted, by name, in the config's order.
        fusion: what makes one ranking of theirs.
    """

    kind: ClassVar[str] = "ensemble"
    config: EnsembleConfig
    members: Mapping[str, Classifier]
    fusion: Fusion

    @property
    def neighbours(self) -> int:
        return max(one.neighbours for one in self.members.values())

    @classmethod
    def fit(cls, config: EnsembleConfig, gallery: Gallery, seed: int = 0) -> Self:
        """Fit the members, and learn their fusion on what they hold out."""
        return cls.fit_and_hold_out(config, Fitting(gallery, [gallery], seed))[0]

    @classmethod
    def held_out(
        cls, config: EnsembleConfig, calibration: Sequence[Gallery], seed: int = 0
    ) -> HeldOut:
        """Cross-fitted scores of the photographs that every member holds out."""
        fitting = Fitting(calibration[0], calibration, seed)
        return _fused(config, _held(config, fitting), seed)[1]

    @classmethod
    def fit_and_hold_out(cls, config: EnsembleConfig, fitting: Fitting) -> tuple[Self, HeldOut]:
        """Members fitted to the gallery, fused by what they hold out in the calibration ones."""
        fusion, held_out = _fused(config, _held(config, fitting), fitting.seed)
        members = {name: fitting.fitted(one) for name, one in config.members.items()}
        return cls(config, members, fusion), held_out

    def scores(self, queries: Representation | Vectors, neighbours: Neighbours) -> Scores:
        """Rank landmarks; a candidate's value is the log-odds of its probability.

        Args:
            queries: q photographs.
            neighbours: theirs, as many as any member looks at.

        Returns:
            at most ``candidates`` landmarks.
        """
        ranked = [one.scores(queries, neighbours) for one in self.members.values()]
        return self.fusion.fused(ranked, self.config.candidates)

    def save(self, folder: Path) -> None:
        """Write ``ensemble.json``, and each member into a folder of its name."""
        for name, one in self.members.items():
            one.save(folder / name)
        saved = _SavedEnsemble(order=list(self.members), config=self.config, fusion=self.fusion)
        write_json(folder / FILE, saved.model_dump())

    @classmethod
    def load(cls, folder: Path, gallery: Gallery) -> Self:
        saved, kinds = _saved(folder)
        loaded = {name: kinds[name].load(folder / name, gallery) for name in saved.order}
        return cls(saved.config, loaded, saved.fusion)

    @classmethod
    def updated(cls, folder: Path, gallery: Gallery, change: GalleryChange, seed: int) -> Self:
        """Of its members; they are fused as before."""
        saved, kinds = _saved(folder)
        members = {
            name: kinds[name].updated(folder / name, gallery, change, seed) for name in saved.order
        }
        return cls(saved.config, members, saved.fusion)


def _saved(folder: Path) -> tuple[_SavedEnsemble, Mapping[str, Any]]:
    """What is saved of an ensemble, and its members' kinds by name."""
    with reading(folder / FILE):
        saved = _SavedEnsemble.model_validate(read_json(folder / FILE))
        kinds = {name: KINDS[type(one)] for name, one in saved.config.members.items()}
        if sorted(saved.order) != sorted(kinds):
            raise ValueError("the order is of other members")
    return saved, kinds


def _held(config: EnsembleConfig, fitting: Fitting) -> list[HeldOut]:
    """The members' held-out scores of the photographs that all of them hold out."""
    held = [fitting.held_out(one) for one in config.members.values()]
    rows = functools.reduce(np.intersect1d, [one.rows for one in held])
    bank_rows = functools.reduce(np.intersect1d, [one.bank_rows for one in held])
    return [one.at(np.isin(one.rows, rows), np.isin(one.bank_rows, bank_rows)) for one in held]


def _fused(config: EnsembleConfig, held: Sequence[HeldOut], seed: int) -> tuple[Fusion, HeldOut]:
    """The fusion of all that is held out, and what is held out fused by others that it did not
    teach."""
    first = held[0]
    parts, bank_parts = first.parts(seed)
    fusion, *folds = (
        FUSIONS[config.fusion].fit(
            [one.at(parts != part, bank_parts != part) for one in held], config
        )
        for part in (-1, *range(PARTS))
    )
    if not all(isinstance(one, StackedFusion) for one in (fusion, *folds)):
        # What thresholds are chosen by has to be of the fusion's kind.
        fusion, *folds = (getattr(one, "weighted", one) for one in (fusion, *folds))
    width = min(config.candidates, sum(one.gallery.candidates.shape[1] for one in held))
    scores, bank = Scores.blank(len(parts), width), Scores.blank(len(bank_parts), width)
    for part, fold in enumerate(folds):
        own, bank_own = parts == part, bank_parts == part
        for into, chosen, of in (
            (scores, own, [one.gallery.at(own) for one in held]),
            (bank, bank_own, [one.bank.at(bank_own) for one in held]),
        ):
            found = fold.fused(of, config.candidates)
            into.candidates[chosen], into.values[chosen] = found.candidates, found.values
    return fusion, HeldOut(first.rows, first.truth, scores, first.bank_rows, bank)


def _joined(held: HeldOut) -> Scores:
    """Scores of gallery photographs, then of bank photographs."""
    return Scores.joined([held.gallery, held.bank])


def _truth(held: HeldOut) -> Integers:
    """(g + b,) the photographs' landmarks, -1 for the bank's."""
    return np.concatenate([held.truth, np.full(len(held.bank_rows), -1)])


def _weights(held: HeldOut) -> Reals:
    """(g + b,) of the photographs: gallery and bank count alike, however many there are of each."""
    counts = len(held.rows), len(held.bank_rows)
    return np.repeat([sum(counts) / max(n, 1) / 2 for n in counts], counts)


def _inputs(groups: Groups, odds: Reals, scores: Sequence[Scores], candidates: int) -> Reals:
    """(g, 3 m + 1) what trees look at, of the g candidates that m members rank.

    The (g, m) log-odds; how far they lie below the member's best; ranks; how many rank it.
    """
    best = np.full((groups.shape[0], len(scores)), -np.inf)
    np.maximum.at(best, groups.query, odds)
    widths = [one.candidates[:, :candidates].shape[1] for one in scores]
    member = np.repeat(np.arange(len(scores)), widths)
    place = np.concatenate([np.arange(width) for width in widths])
    column = groups.order % groups.shape[1]
    group = np.repeat(np.arange(len(odds)), np.diff(groups.starts, append=len(groups.order)))
    ranks = np.full(odds.shape, float(candidates))
    ranks[group, member[column]] = place[column]
    named = (ranks < candidates).sum(axis=1)
    return np.column_stack([odds, odds - best[groups.query], ranks, named])


def _curve(held: HeldOut, candidates: int) -> tuple[Platt, float]:
    """A member's curve, and its floor."""
    scores = _joined(held)
    truth = _truth(held)
    found, values = scores.candidates[:, :candidates], scores.values[:, :candidates]
    there = found >= 0
    right = (found == truth[:, None])[there]
    platt = Platt.fit(values[there], right, np.ones(int(there.sum())))
    wrong = values[there][~right].astype(np.float64)
    lowest = float(np.quantile(wrong, FLOOR)) if len(wrong) else 0.0
    return platt, platt.slope * lowest + platt.offset


def _likeliest(
    groups: Groups, odds: Reals, right: Flags, weights: Reals, penalty: float
) -> tuple[Reals, float]:
    """The members' weights and the offset that make the right landmarks likeliest.

    Args:
        groups: the g candidates of n photographs.
        odds: (g, m) their log-odds.
        right: (g,) whether each is right; a photograph without a right one shows none of them.
        weights: (n,) of the photographs.
        penalty: of the weights' distance from equal ones.
    """
    from scipy.optimize import minimize

    count, members = len(weights), odds.shape[1]
    inputs = np.column_stack([odds, np.ones(len(odds))])
    weight = weights[groups.query]
    start = np.append(np.full(members, 1.0 / members), 0.0)

    def loss(found: Reals) -> tuple[float, Reals]:
        strengths = inputs @ found
        highest = np.zeros(count)
        np.maximum.at(highest, groups.query, strengths)
        powers = np.exp(strengths - highest[groups.query])
        total = np.bincount(groups.query, powers, count) + np.exp(-highest)
        likely = powers / total[groups.query]
        away = np.append(found[:-1] - start[:-1], 0.0)
        value = weights @ (np.log(total) + highest) - weight[right] @ strengths[right]
        slope = (weight * (likely - right)) @ inputs
        return float(value + penalty * away @ away), slope + 2 * penalty * away

    bounds = [(0.0, None)] * members + [(None, None)]
    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:-1], float(found[-1])
