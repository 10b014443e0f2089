"""Whether methods of explanation can be trusted on a system's networks, measured.

Three questions. Does a map fade when the network's weights are made random (Adebayo et al., "Sanity
checks for saliency maps", NeurIPS 2018)? One that stays shows the photograph, and nothing of what
the network learnt. Does the target fall fast when the places with the largest values are greyed
first, and rise fast when they come first (Petsiuk, Das and Saenko, "RISE", BMVC 2018, section 4.1)?
And does the map agree with occlusion, which asks the system itself?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ExplainError
from retrieval.explain import SHARES, SIMILARITY
from retrieval.explain.derivable import derivable
from retrieval.explain.explanation import Explanation
from retrieval.explain.grid import Grid
from retrieval.explain.methods import METHODS, attribution
from retrieval.explain.occlusion import occlusion, without
from retrieval.explain.randomised import randomised
from retrieval.explain.shares import shares
from retrieval.explain.splitting import split
from retrieval.explain.targets import Asked, Target, target_of
from retrieval.types import Reals

STEPS: Final = 4
"""Parts of the networks that are made random one after the other."""
HALF: Final = STEPS // 2 - 1
"""The step after which the upper half of the layers is random."""
FADED: Final = 0.5
"""A map has faded where it is less like the trained network's than this."""
GREYED: Final = np.arange(9) / 8
"""Shares of a photograph that are greyed."""
CHECKED: Final = (SHARES, *(one for one in METHODS if one != "occlusion"))
"""The methods that can fail. Occlusion is what they are compared with: it looks at no weights."""


@dataclass(frozen=True)
class MethodCheck:
    """What was measured of one method, as means over photographs.

    Attributes:
        method: its name.
        ranks: (steps,) rank correlation of the map's sizes with those of the trained network's,
            after each part was made random.
        structure: (steps,) structural similarity of the two.
        deletion: area under the target as places are greyed, those with the largest values first;
            1 where nothing changes. Low is good.
        insertion: likewise as places come back. High is good.
        occlusion: rank correlation with occlusion, by places.
        refused: why it does not apply, or empty; all else is then NaN.
    """

    method: str
    ranks: tuple[float, ...] = ()
    structure: tuple[float, ...] = ()
    deletion: float = np.nan
    insertion: float = np.nan
    occlusion: float = np.nan
    refused: str = ""

    @property
    def likeness(self) -> float:
        """Of the map to the trained network's with the upper half of the layers random or more: the
        most, by either measure."""
        return max(*self.ranks[HALF:], *self.structure[HALF:]) if self.ranks else np.nan

    @property
    def fails(self) -> bool:
        """Whether the map is there still when little is left of what the network learnt."""
        return bool(self.likeness >= FADED)


@dataclass(frozen=True)
class Checks:
    """What was measured of a system's methods.

    Attributes:
        target: what the methods explained.
        photographs: ids of the gallery photographs.
        methods: each one.
        random: deletion and insertion where places are greyed in no order.
    """

    target: str
    photographs: tuple[str, ...]
    methods: tuple[MethodCheck, ...]
    random: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """For a run."""

        def number(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        return {
            "target": self.target,
            "photographs": list(self.photographs),
            "random": [number(one) for one in self.random],
            "methods": {
                one.method: {
                    "ranks": [number(value) for value in one.ranks],
                    "structure": [number(value) for value in one.structure],
                    "deletion": number(one.deletion),
                    "insertion": number(one.insertion),
                    "occlusion": number(one.occlusion),
                    "refused": one.refused,
                    "likeness": number(one.likeness),
                    "fails": one.fails,
                }
                for one in self.methods
            },
        }


Progress = Callable[[int, int], None]


def check(
    asked: Sequence[Asked],
    ids: Sequence[str],
    target: str = SIMILARITY,
    told: Progress | None = None,
) -> Checks:
    """Measure all methods on some photographs.

    Args:
        asked: of each photograph what is to be explained; small ones take less time.
        ids: of the photographs.
        target: as of :data:`retrieval.explain.targets.TARGETS`.
        told: of (methods measured since the last call, 0).

    Raises:
        ExplainError: the system has no network, or not what the target needs.
    """
    by_photograph = [_Known.of(one, target) for one in asked]
    found = []
    for method in CHECKED:
        found.append(_checked(method, target, by_photograph))
        if told is not None:
            told(1, 0)
    random = np.mean([one.areas(one.random_order) for one in by_photograph], axis=0)
    return Checks(target, tuple(ids), tuple(found), (float(random[0]), float(random[1])))


@dataclass(frozen=True)
class _Known:
    """What all methods on a photograph are compared with."""

    asked: Asked
    target: Target
    grid: Grid
    falls: NDArray[np.float64]

    @classmethod
    def of(cls, asked: Asked, target: str) -> _Known:
        derivable(asked.describer, asked.photograph)  # refuses a system without a network
        wanted = target_of(target, asked)
        grid, falls, _ = occlusion(asked.describer, asked.photograph, wanted)
        return cls(asked, wanted, grid, falls)

    @property
    def random_order(self) -> NDArray[np.int64]:
        return np.random.default_rng(0).permutation(len(self.grid))

    def areas(self, order: NDArray[np.int64]) -> tuple[float, float]:
        """Areas under the target as cells are greyed in an order, and as they come back in it."""
        ends = np.rint(GREYED * len(order)).astype(int)
        photograph, grid = self.asked.photograph, self.grid
        greyed = [without(photograph, grid, order[:end]) for end in ends]
        back = [without(photograph, grid, order[end:]) for end in ends]
        rows = self.asked.describer.describe([*greyed, *back]).vectors
        values = np.where(np.linalg.norm(rows, axis=1) > 0, self.target.of(rows), 0.0)
        curves = values.reshape(2, -1) / values[0]
        deletion, insertion = np.trapezoid(curves, GREYED, axis=1)
        return float(deletion), float(insertion)


def _checked(method: str, target: str, known: Sequence[_Known]) -> MethodCheck:
    try:
        each = [list(_of_photograph(method, target, one)) for one in known]
    except ExplainError as error:
        return MethodCheck(method, refused=str(error))
    means = np.mean(each, axis=0)
    ranks, structure = means[3 : 3 + STEPS], means[3 + STEPS :]
    deletion, insertion, agreement = (float(one) for one in means[:3])
    return MethodCheck(
        method, tuple(ranks.tolist()), tuple(structure.tolist()), deletion, insertion, agreement
    )


def _of_photograph(method: str, target: str, known: _Known) -> Iterator[float]:
    """Deletion, insertion, agreement with occlusion; ranks and structure after each step."""
    trained = _map(method, target, known.asked)
    cells = known.grid.maps(trained).ravel()
    yield from known.areas(np.argsort(-cells, kind="stable"))
    yield rank_correlation(cells, known.falls)
    by = derivable(known.asked.describer, known.asked.photograph)
    random = [_map(method, target, known.asked) for _ in randomised(by, STEPS)]
    yield from (rank_correlation(np.abs(trained), np.abs(one)) for one in random)
    yield from (structural_similarity(trained, one) for one in random)


def _map(method: str, target: str, asked: Asked) -> NDArray[np.float64]:
    if method != SHARES:
        return attribution(method, target, asked).map.astype(np.float64)
    if target != SIMILARITY:
        raise ExplainError("shares are split of similarities here")
    both = [split(asked.describer, one) for one in (asked.photograph, asked.against)]
    return shares(both[0], both[1]).query.map


def rank_correlation(one: Reals, other: Reals) -> float:
    """Spearman's, of two arrays of one size; 0 where either is the same all over."""
    from scipy.stats import rankdata

    ranks = [rankdata(values.ravel()) for values in (one, other)]
    spreads = [float(values.std()) for values in ranks]
    if min(spreads) == 0:
        return 0.0
    first, second = (values - values.mean() for values in ranks)
    return float(np.mean(first * second) / (spreads[0] * spreads[1]))


def structural_similarity(one: Reals, other: Reals) -> float:
    """Of the sizes of two maps, each brought to 0 to 1 (Wang et al., IEEE TIP 2004); 0 where
    either is the same all over."""
    from skimage.metrics import structural_similarity as by_skimage

    sizes = [np.abs(values).astype(np.float64) for values in (one, other)]
    spans = [float(np.ptp(values)) for values in sizes]
    if min(spans) == 0:
        return 0.0
    first, second = (
        (values - values.min()) / span for values, span in zip(sizes, spans, strict=True)
    )
    side = min(7, *first.shape)
    side -= 1 - side % 2
    if side < 3:
        return rank_correlation(one, other)
    return float(by_skimage(first, second, win_size=side, data_range=1.0))  # type: ignore[no-untyped-call]


def marked(explained: Explanation, method: str, found: Mapping[str, Any] | None) -> Explanation:
    """An explanation that says so where its method failed the check on this system.

    Args:
        explained: by the method.
        method: its name.
        found: :meth:`Checks.as_json` of the system, or ``None`` where it was not checked.
    """
    measured = {} if found is None else found["methods"].get(method, {})
    if not measured.get("fails"):
        return explained
    said = (
        f"{method} fails the check on this system (landmarks explain --check): with the upper half"
        f" of the layers random, or more, its map is still {measured['likeness']:.2f} like the"
        " trained network's. It shows the photograph more than what the network learnt"
    )
    made = explained.attribution
    if made is None:
        return replace(explained, notes=(*explained.notes, said))
    return replace(explained, attribution=replace(made, failed=said))
