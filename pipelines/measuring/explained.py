"""Explain the examples that a report shows, and what the evidence of false accepts lies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from pipelines.report import examples
from pipelines.report.explained import Evidence, Explained, MatchMap
from pipelines.report.measured import Measured
from pipelines.report.page import SHOWN
from retrieval.classifiers.svm import SvmClassifier
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
from retrieval.explain.verdict import margin_split
from retrieval.photographs.decoding import shrink
from retrieval.photographs.given import open_given
from retrieval.system import System
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
    told, have none.

    Args:
        system: that was measured.
        measured: on it.
        told: of (photographs since the last call, of which so many have no map).
    """
    shown, false, right = rows_to_explain(measured)
    found = kept(system.run.folder, CONCEPTS, system.record["describer"])
    study = None if found is None else ConceptStudy.of_json(found)
    maps, evidence = {}, {}
    for row in dict.fromkeys([*shown, *false, *right]):
        one = _explained(system.explainer, measured, row)
        told(1, int(one is None))
        if one is None:
            continue
        if row in shown:
            maps[row] = _match_map(system, measured, row, one)
        if row in false or row in right:
            evidence[row] = _evidence(system.explainer, study, one)
    return Explained(
        maps,
        () if study is None else [one.name for one in study.concepts],
        [evidence[row] for row in false if row in evidence],
        [evidence[row] for row in right if row in evidence],
    )


@dataclass(frozen=True)
class _Pair:
    """A test photograph and its nearest gallery photograph."""

    query: Photograph
    gallery: Photograph
    shares: Shares
    split: Split | None


def _explained(explainer: Explainer, measured: Measured, row: int) -> _Pair | None:
    near = int(measured.near_rows[row, 0])
    if near < 0:
        return None
    side = explainer.describer.longest_side
    try:
        query = open_given(measured.sources[row], side)
        gallery = open_given(measured.gallery_sources[near], side)
        both = _splits(explainer, query, gallery)
        pair = PhotographPair(query, gallery, both)
        found = similarity_shares(explainer.in_float32, pair, explainer.gallery)
    except (ExplainError, PhotographError):
        return None
    return None if found is None else _Pair(query, gallery, found, both and both[0])


def _splits(
    explainer: Explainer, query: Photograph, gallery: Photograph
) -> tuple[Split, Split] | None:
    """``None`` where the vectors have no places: words may have."""
    try:
        return split(explainer.in_float32, query), split(explainer.in_float32, gallery)
    except ExplainError:
        return None


def _match_map(system: System, measured: Measured, row: int, pair: _Pair) -> MatchMap:
    pictures = {
        "match": _drawn(pair.query, pair.shares.query.map),
        "nearest": _drawn(pair.gallery, pair.shares.gallery.map),
    }
    for result in measured.results:
        classifier = system.classifiers.get(result.name)
        code = int(result.best[row])
        if isinstance(classifier, SvmClassifier) and pair.split is not None and code >= 0:
            side = margin_split(classifier, pair.split, code)
            pictures[f"margin by {result.name}"] = _drawn(pair.query, side.map)
            break
    return MatchMap(pair.shares.similarity, pictures)


def _drawn(photograph: Photograph, values: Reals) -> Photograph:
    return overlay(shrink(photograph, MAP_SIDE), values)


def _evidence(explainer: Explainer, study: ConceptStudy | None, pair: _Pair) -> Evidence:
    speaks = np.maximum(pair.shares.query.map, 0.0)
    speaks = speaks / max(float(speaks.sum()), 1e-12)
    third = np.minimum(3 * np.arange(len(speaks)) // len(speaks), 2)
    thirds = np.array([speaks[third == one].sum() for one in range(3)])
    if study is None:
        return Evidence(thirds, np.zeros(0))
    by = derivable(explainer.in_float32, pair.query)
    maps = outputs(by, layer_named(layers_of(by), study.layer)).numpy()
    directions = np.array([one.direction / study.scale for one in study.concepts])
    laid = np.einsum("kc,chw->khw", directions, maps)
    height, width = laid.shape[1:]
    weights = cv2.resize(speaks, (width, height), interpolation=cv2.INTER_LINEAR)
    flat = laid.reshape(len(laid), -1)
    spread = np.maximum(flat.std(axis=1, keepdims=True), 1e-9)
    scaled = (flat - flat.mean(axis=1, keepdims=True)) / spread
    return Evidence(thirds, scaled @ weights.ravel() / max(float(weights.sum()), 1e-12))
