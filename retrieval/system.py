"""A system: built or loaded, photographs in, landmarks out. What notebooks and servers use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from retrieval import build
from retrieval.agreement import require_agreement, require_same_weights
from retrieval.classifiers.base import Classifier, Judgement
from retrieval.classifiers.exits import with_exit
from retrieval.classifiers.registry import load_classifier
from retrieval.classifiers.rejection import Rejection
from retrieval.classifiers.signals import Signals
from retrieval.config import SystemConfig
from retrieval.describing import Bar, load_describer, no_bar
from retrieval.descriptors.deferred import deferred
from retrieval.descriptors.describer import Describer, Errors, failures
from retrieval.descriptors.extraction import WINDOW
from retrieval.descriptors.representation import Representation
from retrieval.devices import AUTO, choose_device
from retrieval.errors import TableError
from retrieval.explain import SHARES, SIMILARITY
from retrieval.index.early_exit import SavedExit
from retrieval.index.gallery import Gallery
from retrieval.index.neighbours import Neighbours
from retrieval.indexing import calibration_galleries, load_gallery
from retrieval.photographs.given import Given, source_windows
from retrieval.photographs.table import DataSet
from retrieval.predictions import blank_predictions
from retrieval.run import COLUMNS, Run
from retrieval.storage.shards import OK
from retrieval.types import STRING, Integers, Vectors

if TYPE_CHECKING:
    from retrieval.explain.explainer import Explainer
    from retrieval.explain.explanation import Explanation

NONE: Final = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))
"""For classifiers that look at no neighbours."""


@dataclass(frozen=True)
class System:
    """A run in memory; the gallery's descriptors stay on disk, memory-mapped.

    Attributes:
        run: its files.
        config: as resolved when it was built.
        fingerprint: of everything that decides its answers.
        names: readable names of landmarks that have one.
        describer: photographs to descriptors.
        gallery: descriptors, labels and index.
        rows: the gallery's ``id``, ``source`` and ``landmark``, one for each descriptor.
        classifiers: by name.
        rejections: by the same names.
        answer: the name of the classifier whose answer counts.
        record: run.json as it is.
        device: ``cpu`` or ``cuda``.
        weights: where the networks' weights lie, if not where they lay at the build.
    """

    run: Run
    config: SystemConfig
    fingerprint: str
    names: Mapping[str, str]
    describer: Describer
    gallery: Gallery
    rows: pd.DataFrame
    classifiers: Mapping[str, Classifier]
    rejections: Mapping[str, Rejection]
    answer: str
    record: Mapping[str, Any]
    device: str
    weights: Path | None = None

    @classmethod
    def build(
        cls,
        config: SystemConfig,
        data: DataSet,
        run: Path | str,
        device: str = AUTO,
        bar: Bar = no_bar,
    ) -> System:
        """Build a run, or go on with one that was killed, and load it.

        Args:
            config: of the system.
            data: its gallery and bank.
            run: the folder that it is written to.
            device: ``auto``, ``cpu`` or ``cuda``.
            bar: told of what is done.

        Raises:
            TableError, RunError, WeightsError: as :func:`retrieval.build.build`.
            DeviceError: as its name says.
            TypeError: something else was given.
        """
        _require(config, SystemConfig, "the config")
        _require(data, DataSet, "the data")
        settled = choose_device(device)
        build.build(config, data, Run(run), settled, bar)
        return cls.load(run, settled)

    def add(self, table: pd.DataFrame, bar: Bar = no_bar) -> System:
        """The system with further photographs, as :func:`retrieval.build.add`; this one's run
        is written anew."""
        _require(table, pd.DataFrame, "the table")
        lacking = [name for name in COLUMNS if name not in table]
        if lacking:
            raise TableError(
                f"the table has no column {lacking[0]}: read_table of"
                " retrieval.photographs.table makes one that has"
            )
        build.add(self.run, table, self.device, self.weights, bar)
        return self.load(self.run.folder, self.device, self.weights)

    def remove(self, ids: str | Sequence[str]) -> System:
        """The system without one photograph, or some, as :func:`retrieval.build.remove`; this
        one's run is written anew."""
        build.remove(self.run, [ids] if isinstance(ids, str) else ids, self.device)
        return self.load(self.run.folder, self.device, self.weights)

    @classmethod
    def load(cls, run: Path | str, device: str = AUTO, weights: Path | str | None = None) -> System:
        """Load a built run.

        Args:
            run: its folder.
            device: ``auto``, ``cpu`` or ``cuda``.
            weights: where the networks' weights lie now, if not where they lay at the build.

        Raises:
            RunError: missing, unfinished or damaged.
            DeviceError, WeightsError: as their names say.
        """
        files = Run(run)
        record, config = files.read_finished()
        files.check(record)
        settled, place = choose_device(device), Path(weights) if weights else None
        config = config.with_weights(place)
        describer = load_describer(files, config, settled, calibrated=False)
        require_same_weights(files, record["describer"], describer)
        gallery, rows = load_gallery(
            files, config, settled, describer.local_branch, record["index"].get("descriptors")
        )
        require_agreement(files, record["describer"], describer, rows, gallery.vectors)
        verification = config.search.verification
        if verification is not None and verification.early_exit is not None:
            least = SavedExit.load(files.classifiers).least
            if least is not None:
                gallery = with_exit(gallery, least)
        places = {name: files.classifiers / name for name in config.classifiers}
        return cls(
            run=files,
            config=config,
            fingerprint=record["fingerprint"],
            names=record["names"],
            describer=describer,
            gallery=gallery,
            rows=rows,
            classifiers={
                name: load_classifier(config.classifiers[name], place, gallery)
                for name, place in places.items()
            },
            rejections={name: Rejection.load(place) for name, place in places.items()},
            answer=record["answer"],
            record=record,
            device=settled,
            weights=place,
        )

    def calibration_galleries(self) -> list[Gallery]:
        """As :func:`retrieval.indexing.calibration_galleries`, to fit further classifiers; searched
        as queries are, each with its own bank's photographs as rivals."""
        found = calibration_galleries(self.run, self.config, self.gallery, self.device)
        early = self.gallery.searcher.early_exit
        return found if early is None else [with_exit(one, early.least) for one in found]

    @property
    def landmarks(self) -> Sequence[str]:
        """Landmark ids; a landmark's place is its code."""
        return self.gallery.landmarks

    def neighbours(self, descriptors: Representation | Vectors, k: int | None = None) -> Neighbours:
        """The nearest gallery photographs of q photographs; as many as the classifiers ask."""
        wanted = k or max(1, *(one.neighbours for one in self.classifiers.values()))
        return self.gallery.searcher.search(descriptors, wanted)

    def judge(
        self, descriptors: Representation | Vectors, neighbours: Neighbours | None = None
    ) -> dict[str, Judgement]:
        """What every classifier says of q photographs."""
        found = neighbours or self.neighbours(descriptors)
        signals = self._signals(descriptors, found, *self.rejections.values())
        return {
            name: self.rejections[name].judge(classifier.scores(descriptors, found), signals)
            for name, classifier in self.classifiers.items()
        }

    @property
    def query_describer(self) -> Describer:
        """What describes photographs that are answered: without local features where the classifier
        whose answer counts looks at no neighbours, whom they would find or verify; only as they
        are asked for where some queries are not verified."""
        looks = self.classifiers[self.answer].neighbours
        if looks or self.rejections[self.answer].needs_signals:
            early = self.gallery.searcher.early_exit is not None
            return deferred(self.describer) if early else self.describer
        return replace(self.describer, local_branch=None)

    @property
    def notes(self) -> Sequence[str]:
        """What to expect of the answers, what cannot be promised, and why there are no odds."""
        return self.rejections[self.answer].notes

    def answers(self, descriptors: Representation | Vectors) -> Judgement:
        """What the classifier whose answer counts says of q photographs."""
        return self._answers(descriptors)[0]

    def _answers(self, descriptors: Representation | Vectors) -> tuple[Judgement, Neighbours]:
        """:meth:`answers`, and the neighbours that were looked at (none by some classifiers)."""
        classifier = self.classifiers[self.answer]
        near = (
            self.neighbours(descriptors, classifier.neighbours) if classifier.neighbours else NONE
        )
        scores = classifier.scores(descriptors, near)
        rejection = self.rejections[self.answer]
        return rejection.judge(scores, self._signals(descriptors, near, rejection)), near

    def _nearest(self, descriptors: Representation, found: Neighbours, near: int) -> Neighbours:
        """The nearest gallery photographs: of those that the classifier looked at, or else by
        vectors alone, which costs little."""
        if found.rows.shape[1] < min(near, len(self.rows)):
            return self.gallery.searcher.index.search(descriptors.vectors, near)
        return found.first(near)

    def _signals(
        self, descriptors: Representation | Vectors, near: Neighbours, *rejections: Rejection
    ) -> Signals | None:
        """What rejections look at besides scores, if any of them does."""
        if not any(one.needs_signals for one in rejections):
            return None
        return Signals.of(self.gallery, descriptors, near)

    def predictions(
        self,
        ids: Sequence[str],
        descriptors: Representation | Vectors,
        top: int = 0,
        near: int = 1,
        errors: Errors | None = None,
    ) -> pd.DataFrame:
        """The answers as a frame.

        Args:
            ids: (q,) one a photograph.
            descriptors: of q photographs.
            top: how many of the best candidates are told with their scores.
            near: how many of the nearest gallery photographs are told.
            errors: (q,) why photographs could not be described, as :meth:`Describer.stream`
                gives them; by default those without a descriptor had nothing to describe.

        Returns:
            :func:`retrieval.predictions.prediction_columns`. ``landmark`` and ``name`` are empty
            where no landmark is shown; ``candidate`` is the best candidate all the same,
            ``probability`` that it is right (NaN where held-out photographs were too few for
            one), ``confidence`` the score that the answer hangs on.
            ``nearest`` is a gallery photograph's id, ``similarity`` its descriptor's inner
            product with the photograph's.
        """
        described = Representation.of(descriptors)
        errors = failures(described) if errors is None else errors
        columns = blank_predictions(len(ids), top, near)
        texts = {name: STRING for name, cells in columns.items() if cells.dtype == object}
        columns["id"][:] = ids
        columns["status"][:] = [OK if error is None else error.status for error in errors]
        columns["reason"][:] = ["" if error is None else str(error) for error in errors]
        good = np.flatnonzero([error is None for error in errors])
        if len(good):
            for name, cells in self._told(described[good], top, near).items():
                columns[name][good] = cells
        return pd.DataFrame(columns).astype(texts)

    def _told(self, descriptors: Representation, top: int, near: int) -> dict[str, NDArray[Any]]:
        """The columns of photographs that were described."""
        judged, found = self._answers(descriptors)
        candidate = self._landmark(judged.scores.best)
        landmark = np.where(judged.accepted, candidate, "")
        columns = {
            "landmark": landmark,
            "name": self._names(landmark),
            "probability": judged.probability,
            "candidate": candidate,
            "candidate_name": self._names(candidate),
            "confidence": _finite(judged.scores.confidence),
        }
        nearest = self._nearest(descriptors, found, near)
        ids = self.rows["id"]
        bonus = 0.0 if nearest.bonus is None else nearest.bonus
        similarities = _finite(nearest.similarities - bonus)
        for i in range(min(near, nearest.rows.shape[1])):
            rows, suffix = nearest.rows[:, i], f"_{i + 1}" if i else ""
            names = ids.iloc[np.maximum(rows, 0)].to_numpy(dtype=object)
            columns["nearest" + suffix] = np.where(rows >= 0, names, "")
            columns["similarity" + suffix] = similarities[:, i]
        for i in range(min(top, judged.scores.candidates.shape[1])):
            columns[f"candidate_{i + 1}"] = self._landmark(judged.scores.candidates[:, i])
            columns[f"score_{i + 1}"] = _finite(judged.scores.values[:, i])
        return columns

    def classify(self, photographs: Given | Iterable[Given], top: int = 0) -> pd.DataFrame:
        """Classify one photograph or several.

        Args:
            photographs: a path, a Pillow image or an (h, w, 3) uint8 RGB array; or any mixture of
                them in a list or another iterable.
            top: how many of the best candidates are told with their scores.

        Returns:
            as :meth:`predictions`; the id is the path, or the place among the photographs. A
            photograph that cannot be read is a row with its status and reason, not an exception.

        Raises:
            TypeError: anything else was given.
        """
        ids: list[str] = []
        frames, windows = [], source_windows(photographs, WINDOW, ids)
        for described, errors in self.query_describer.stream(windows):
            # The ids of the windows that are read ahead are there already.
            own, ids[:] = ids[: len(described)], ids[len(described) :]
            frames.append(self.predictions(own, described, top, errors=errors))
        frames = frames or [self.predictions([], self.query_describer.from_features([]), top)]
        return pd.concat(frames, ignore_index=True)

    def explain(
        self,
        photograph: Given,
        against: str | None = None,
        method: str = SHARES,
        target: str = SIMILARITY,
    ) -> Explanation:
        """Why a photograph is answered as it is.

        Networks run by torch in float32 for this, whatever the run has them run by.

        Args:
            photograph: as of :meth:`classify`.
            against: id of a gallery photograph to compare with; by default the one of the
                best candidate that is most similar.
            method: :data:`retrieval.explain.methods.METHODS`, by name.
            target: what any method but ``shares`` explains:
                :data:`retrieval.explain.targets.TARGETS`, by name.

        Raises:
            ExplainError: there is no candidate, the method does not apply, or the gallery
                photograph is not there any more.
            PhotographError: the photograph cannot be read or described.
            TypeError: it is none.
        """
        from retrieval.explain.checks import marked
        from retrieval.explain.kept import CHECKS, kept

        explained = self.explainer.explain(photograph, against, method, target)
        found = kept(self.run.folder, CHECKS, self.record["describer"])
        return marked(explained, method, found)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains this system's answers; it has the networks once more, in float32."""
        # Here, and not above: a fifth of a second that no answer should wait for.
        from retrieval.explain.explainer import Explainer

        config = self.config.in_float32()
        return Explainer(
            describer=self.describer,
            in_float32=load_describer(self.run, config, self.device, calibrated=False),
            gallery=self.gallery,
            rows=self.rows,
            classifiers=self.classifiers,
            rejections=self.rejections,
            answer=self.answer,
            name=self.name,
        )

    def name(self, landmark: str) -> str:
        """A landmark's readable name; its id where it has none."""
        return self.names.get(landmark, landmark)

    def _landmark(self, codes: Integers) -> NDArray[np.object_]:
        """The landmarks of codes; empty for -1."""
        found = [self.landmarks[code] if code >= 0 else "" for code in codes]
        return np.array(found, dtype=object)

    def _names(self, landmarks: NDArray[np.object_]) -> NDArray[np.object_]:
        return np.array([self.name(one) for one in landmarks], dtype=object)


def _finite(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Values in which what is not there (-inf) is missing."""
    return np.where(np.isfinite(values), values.astype(np.float64), np.nan)


def _require(value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} has to be a {kind.__name__}, not {type(value).__name__}")
