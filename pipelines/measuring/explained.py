"""Explain the examples that a report shows, and what the evidence of false accepts lies on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import cv2
import numpy as np

from pipelines.report import examples
from pipelines.report.explained import Evidence, Explained, MatchMap
from pipelines.report.measured import Measured
from pipelines.report.page import SHOWN
from retrieval.descriptors.extraction import worker_pool
from retrieval.errors import ExplainError, PhotographError
from retrieval.explain.concept_study import ConceptStudy
from retrieval.explain.derivable import derivable
from retrieval.explain.explainer import Explainer
from retrieval.explain.explanation import PhotographPair, similarity_shares
from retrieval.explain.kept import CONCEPTS, kept
from retrieval.explain.layers import layer_named, layers_of, outputs
from retrieval.explain.overlay import overlay
from retrieval.explain.shares import Shares
from retrieval.explain.split import Split
from retrieval.explain.splitting import split
from retrieval.explain.verdict import SPLITS
from retrieval.photographs.decoding import shrink
from retrieval.photographs.given import open_given
from retrieval.system import System
from retrieval.threads import one_thread_a_product
from retrieval.types import Photograph, Reals

MAP_SIDE: Final = 160
"""Longest side of a map in the report, in pixels."""
LOOKED_AT: Final = 20
"""False accepts, and right answers, of which the evidence is looked at."""
Progress = Callable[[int, int], None]


def rows_to_explain(measured: Measured) -> tuple[list[int], list[int], list[int]]:
    """Test rows: the examples that are shown, the surest false accepts, and right answers."""
    groups = examples.groups(measured, SHOWN)
    shown = list(dict.fromkeys(row for group in groups for row in group.rows))
    more = {group.key: group.rows for group in examples.groups(measured, LOOKED_AT)}
    return shown, list(more["false-accepts"]), list(more["all-right"])


def explain_examples(
    system: System, measured: Measured, told: Progress = lambda done, failed: None
) -> Explained:
    """Match maps of the examples, and the evidence of false accepts and right answers.

    Photographs that cannot be opened (URLs are not fetched), and systems of which no place can be
    told, have none. Every core has photographs of its own: torch's threads, which wait for each
    other, take four times as long.

    Args:
        system: that was measured.
        measured: on it.
        told: of (photographs since the last call, of which so many have no map).
    """
    shown, false, right = rows_to_explain(measured)
    looked_at = dict.fromkeys([*false, *right])
    found: dict[int, _Found] = {}
    explainer = system.explainer
    explained = partial(_explained, explainer, measured, set(shown))
    rows = dict.fromkeys([*shown, *looked_at])
    with one_thread_a_product(), worker_pool() as pool:
        for row, one in zip(rows, pool.map(explained, rows), strict=True):
            told(1, int(one is None))
            if one is not None:
                found[row] = one
    kept_study = kept(system.run.folder, CONCEPTS, system.record["describer"])
    study = None if kept_study is None else ConceptStudy.of_json(kept_study)
    evidence = _evidence(explainer, study, {r: found[r] for r in looked_at if r in found})
    maps = {row: found[row].map for row in shown if row in found}
    return Explained(
        {row: one for row, one in maps.items() if one is not None},
        () if study is None else [one.name for one in study.concepts],
        [evidence[row] for row in false if row in evidence],
        [evidence[row] for row in right if row in evidence],
    )


@dataclass(frozen=True)
class _Found:
    """Why a test photograph resembles its neighbour.

    Attributes:
        query: the photograph.
        values: (rows, columns) its shares.
        map: what is shown; ``None`` where it is no example.
    """

    query: Photograph
    values: Reals
    map: MatchMap | None


def _explained(
    explainer: Explainer, measured: Measured, shown: Container[int], row: int
) -> _Found | None:
    near = int(measured.near_rows[row, 0])
    if near < 0:
        return None
    side = explainer.describer.longest_side
    try:
        query = open_given(measured.sources[row], side)
        gallery = open_given(measured.gallery_sources[near], side)
        pair = PhotographPair(query, gallery, _splits(explainer, query, gallery))
        shares = similarity_shares(explainer.in_float32, pair, explainer.gallery)
    except (ExplainError, PhotographError):
        return None
    if shares is None:
        return None
    drawn = _match_map(explainer, measured, row, pair, shares) if row in shown else None
    return _Found(query, shares.query.map, drawn)


def _splits(
    explainer: Explainer, query: Photograph, gallery: Photograph
) -> tuple[Split, Split] | None:
    """``None`` where the vectors have no places: words may have."""
    try:
        return split(explainer.in_float32, query), split(explainer.in_float32, gallery)
    except ExplainError:
        return None


def _match_map(
    explainer: Explainer, measured: Measured, row: int, pair: PhotographPair, shares: Shares
) -> MatchMap:
    pictures = {
        "match": _drawn(pair.query, shares.query.map),
        "nearest": _drawn(pair.gallery, shares.gallery.map),
    }
    # By the classifier that answers, where it is linear; else by another.
    for result in sorted(measured.results, key=lambda one: one.name != measured.answer):
        code, classifier = int(result.best[row]), explainer.classifiers.get(result.name)
        if type(classifier) not in SPLITS or pair.splits is None or code < 0:
            continue
        what, split_of = SPLITS[type(classifier)]
        side = split_of(classifier, pair.splits[0], code)
        if side is not None:
            pictures[f"{what} by {result.name}"] = _drawn(pair.query, side.map)
            break
    return MatchMap(shares.similarity, pictures)


def _drawn(photograph: Photograph, values: Reals) -> Photograph:
    return overlay(shrink(photograph, MAP_SIDE), values)


def _evidence(
    explainer: Explainer, study: ConceptStudy | None, found: Mapping[int, _Found]
) -> dict[int, Evidence]:
    """Where what speaks for the similarity lies, and on what."""
    laid = _laid(explainer, study, [one.query for one in found.values()])
    return {
        row: _evidence_of(one.values, its)
        for (row, one), its in zip(found.items(), laid, strict=True)
    }


def _laid(
    explainer: Explainer, study: ConceptStudy | None, queries: Sequence[Photograph]
) -> Iterator[Reals]:
    """(concepts, rows, columns) how much of each concept lies at each place of each photograph."""
    if study is None or not queries:
        yield from (np.zeros((0, 1, 1)) for _ in queries)
        return
    directions = np.array([one.direction / study.scale for one in study.concepts])
    by = derivable(explainer.in_float32, queries[0])
    layer = layer_named(layers_of(by), study.layer)

    def laid(query: Photograph) -> Reals:
        maps = outputs(derivable(explainer.in_float32, query), layer).numpy()
        found: Reals = np.einsum("kc,chw->khw", directions, maps)
        return found

    # By one thread: what comes out of a layer is caught by a hook, which would catch another's.
    with worker_pool(1) as pool:
        yield from pool.map(laid, queries)


def _evidence_of(values: Reals, laid: Reals) -> Evidence:
    speaks = np.maximum(values, 0.0)
    speaks = speaks / max(float(speaks.sum()), 1e-12)
    third = np.minimum(3 * np.arange(len(speaks)) // len(speaks), 2)
    thirds = np.array([speaks[third == one].sum() for one in range(3)])
    height, width = laid.shape[1:]
    weights = cv2.resize(speaks, (width, height), interpolation=cv2.INTER_LINEAR)
    flat = laid.reshape(len(laid), height * width)
    spread = np.maximum(flat.std(axis=1, keepdims=True), 1e-9)
    scaled = (flat - flat.mean(axis=1, keepdims=True)) / spread
    return Evidence(thirds, scaled @ weights.ravel() / max(float(weights.sum()), 1e-12))
