"""A built run, loaded: photographs in, landmarks out. What notebooks, servers and stages use."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from retrieval.classifiers.base import Classifier, Flags, Gallery, Integers, Judgement
from retrieval.classifiers.calibration import CalibrationConfig
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.network import NetworkClassifierConfig
from retrieval.classifiers.registry import ClassifierConfig, load_classifier
from retrieval.classifiers.rejection import Rejection, RejectionConfig
from retrieval.classifiers.signals import NEAR, Signals
from retrieval.classifiers.trained_head import TrainedHead
from retrieval.descriptors.base import Extractor
from retrieval.descriptors.cross_fit import part_of
from retrieval.descriptors.describer import Describer, Errors, failures
from retrieval.descriptors.extraction import WINDOW
from retrieval.descriptors.local_branch import LocalBranch, LocalBranchConfig, build_local_branch
from retrieval.descriptors.registry import (
    ExtractorConfig,
    build_extractor,
    located,
    part_whitenings,
)
from retrieval.descriptors.representation import VECTORS, Representation
from retrieval.descriptors.trained import TrainedConfig, own_network, resolved, trained_networks
from retrieval.devices import CPU, CUDA, choose_device
from retrieval.errors import PhotographError, RunError
from retrieval.index.expansion import DatabaseAugmentation, augmented_index
from retrieval.index.faiss_index import FaissIndex, IndexConfig
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.neighbours import Neighbours
from retrieval.index.searcher import KeptSource, Recomputed, SearchConfig, Searcher
from retrieval.index.verification import require_estimator
from retrieval.local import registry as detectors
from retrieval.local.features import LocalFeatures, no_features
from retrieval.networks.trunks import find_weights
from retrieval.photographs.decoding import read_photograph
from retrieval.photographs.given import Given, source_windows
from retrieval.predictions import blank_predictions
from retrieval.storage.files import read_arrays, read_table, reading
from retrieval.storage.record import RUN, check_files, read_record
from retrieval.storage.shards import OK
from retrieval.training.checkpoints import seen_photographs
from retrieval.training.config import TrainingConfig
from retrieval.types import STRING, PartName, StrictModel, SystemName, Vectors
from retrieval.vectors.gpu import gpu_problem
from retrieval.vectors.whitening import WhiteningConfig

log = logging.getLogger(__name__)

ROWS: Final = "index/rows.parquet"
GALLERY: Final = "index/gallery"
BANK: Final = "index/bank"
BANK_ROWS: Final = "index/bank-rows.parquet"
TRAINING: Final = "training"
AUGMENTED: Final = "index/augmented"
AUTO: Final = "auto"
NONE: Final = Neighbours(np.zeros((0, 0), np.int64), np.zeros((0, 0), np.float32))
"""For classifiers that look at no neighbours."""


class SystemConfig(StrictModel):
    """A whole system: what a YAML file in ``pipelines/configs`` says.

    Attributes:
        name: of the system; the file is named after it.
        description: one line for people.
        seed: of everything random.
        training: how the run's own network is fitted, or ``None`` where it has none.
        extractor: photographs to raw descriptors.
        whitening: how they are whitened, or ``None``.
        local: local features beside the descriptor, for visual words and verification; or
            ``None``.
        search: how neighbours are found besides by the index.
        fit_photographs: at most this many of gallery and bank teach codebook and whitening; their
            features are kept on disk and taken up again.
        index: how descriptors are searched.
        classifiers: by name; every one is fitted, evaluated and kept.
        answer: the classifier whose answer counts, or ``auto``: the best on held-out gallery
            photographs and the bank.
        rejection: when to say none, of every classifier.
        calibration: how confidences become probabilities.
    """

    name: SystemName
    description: str = ""
    seed: int = Field(0, ge=0, lt=2**31)
    training: TrainingConfig | None = None
    extractor: ExtractorConfig
    whitening: WhiteningConfig | None = Field(default_factory=WhiteningConfig)
    local: LocalBranchConfig | None = None
    search: SearchConfig = Field(default_factory=SearchConfig)
    fit_photographs: int = Field(10_000, ge=2, le=10_000_000)
    index: IndexConfig = Field(default_factory=IndexConfig)
    classifiers: dict[PartName, Annotated[ClassifierConfig, Field(discriminator="kind")]]
    answer: str = AUTO
    rejection: RejectionConfig = RejectionConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _answers(self) -> SystemConfig:
        if not self.classifiers:
            raise ValueError("classifiers: name at least one")
        if self.answer != AUTO and self.answer not in self.classifiers:
            known = ", ".join(self.classifiers)
            raise ValueError(f"answer: {self.answer!r} is not auto nor a classifier ({known})")
        return self

    @model_validator(mode="after")
    def _verifiable(self) -> SystemConfig:
        kept = self.local is not None and self.local.kept is not None
        if self.search.verification is not None:
            if not kept:
                raise ValueError("search.verification: needs local.kept, what is verified by")
            require_estimator(self.search.verification)
        elif kept:
            raise ValueError("local.kept: nothing is verified without search.verification")
        if self.local is not None and self.local.words is None and not kept:
            raise ValueError("local: give words to search by, or kept to verify by")
        return self

    @model_validator(mode="after")
    def _trained(self) -> SystemConfig:
        if own_network(self.extractor) != (self.training is not None):
            raise ValueError(
                "training: belongs to an extractor of kind trained without a network of its own,"
                " and that to it"
            )
        for name, one in self.classifiers.items():
            alone = one.members.values() if isinstance(one, EnsembleConfig) else [one]
            if any(isinstance(each, NetworkClassifierConfig) for each in alone) and not (
                isinstance(self.extractor, TrainedConfig) and self.whitening is None
            ):
                raise ValueError(
                    f"classifiers.{name}: network judges embeddings as they are: it needs the"
                    " extractor trained, and whitening: null"
                )
        return self

    def extractor_in(self, run: Path) -> ExtractorConfig:
        """The extractor's config, with the run's own network as its network."""
        extractor: ExtractorConfig = resolved(self.extractor, run / TRAINING)
        return extractor

    @property
    def labels_teach(self) -> bool:
        """Whether a whitening learns from labels, so that other ones make other descriptors."""
        return any(one.learnt_on == "pairs" for one in self.whitenings)

    @property
    def whitenings(self) -> list[WhiteningConfig]:
        """The system's, and those of its extractor's parts."""
        all_of_them = [self.whitening, *part_whitenings(self.extractor)]
        return [one for one in all_of_them if one is not None]

    @property
    def pairs_teach(self) -> bool:
        """Whether a whitening learns from pairs, be they a landmark's photographs or views."""
        viewed = self.whitening is not None and self.whitening.views > 0
        return viewed or self.labels_teach

    @property
    def neighbours(self) -> int:
        """The most neighbours that the index is ever asked for: the photograph itself may be
        one more than those looked at."""
        looked_at = [getattr(one, "k", 1) for one in self.classifiers.values()]
        if self.rejection.needs_signals:
            looked_at.append(NEAR)
        if self.search.verification is not None:
            looked_at.append(self.search.verification.top)
        return max(*looked_at, self.search.expansion.queries) + 1

    def with_weights(self, given: Path | None) -> SystemConfig:
        """The config with its networks' weights settled by ``--weights``.

        Raises:
            WeightsError: what was given is not there.
        """
        if given is None:
            return self
        changes: dict[str, Any] = {"extractor": located(self.extractor, given)}
        if self.training is not None:
            network = self.training.network
            weights = {"weights": find_weights(network.trunk, given)}
            network = network.model_copy(update=weights)
            changes["training"] = self.training.model_copy(update={"network": network})
        if self.local is not None:
            detector = detectors.located(self.local.detector, given)
            changes["local"] = self.local.model_copy(update={"detector": detector})
        return self.model_copy(update=changes)


@dataclass(frozen=True)
class System:
    """A run in memory; the gallery's descriptors stay on disk, memory-mapped.

    Attributes:
        run: its folder.
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
    """

    run: Path
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

    @classmethod
    def load(
        cls, run: Path | str, device: str = "auto", weights: Path | str | None = None
    ) -> System:
        """Load a built run.

        Args:
            run: its folder.
            device: ``auto``, ``cpu`` or ``cuda``.
            weights: where the networks' weights lie now, if not where they lay at the build.

        Raises:
            RunError: missing, unfinished or damaged.
            DeviceError, WeightsError: as their names say.
        """
        folder = Path(run)
        record, config = read_run(folder)
        if not record.get("finished"):
            raise RunError(f"{folder} is not finished: run landmarks index again, it goes on")
        check_files(folder, record)
        settled = choose_device(device)
        config = config.with_weights(Path(weights) if weights else None)
        extractor = build_extractor(config.extractor_in(folder), settled, config.seed)
        local_branch = local_branch_of(config, settled)
        _require_weights(folder, record["describer"], extractor, local_branch)
        describer = Describer.load(folder, extractor, config.whitening is not None, local_branch)
        gallery, rows = load_gallery(
            folder, settled, record["index"].get("descriptors"), config, describer.local_branch
        )
        return cls(
            run=folder,
            config=config,
            fingerprint=record["fingerprint"],
            names=record["names"],
            describer=describer,
            gallery=gallery,
            rows=rows,
            classifiers={
                name: load_classifier(one, folder / "classifiers" / name, gallery)
                for name, one in config.classifiers.items()
            },
            rejections={
                name: Rejection.load(folder / "classifiers" / name) for name in config.classifiers
            },
            answer=record["answer"],
            record=record,
        )

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
        for described, errors in self.describer.stream(windows):
            # The ids of the windows that are read ahead are there already.
            own, ids[:] = ids[: len(described)], ids[len(described) :]
            frames.append(self.predictions(own, described, top, errors=errors))
        frames = frames or [self.predictions([], self.describer.from_features([]), top)]
        return pd.concat(frames, ignore_index=True)

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


def _require_weights(
    folder: Path, built: Mapping[str, Any], extractor: Extractor, local_branch: LocalBranch | None
) -> None:
    """Refuse to answer with other networks than the run was built with."""
    pairs = [(built["extractor"], extractor.identity())]
    if local_branch is not None:
        pairs.append((built["local"]["detector"], local_branch.detector.identity()))
    if any(_weights(before) != _weights(now) for before, now in pairs):
        raise RunError(
            f"{folder} was built with other weights: give those (--weights), or build the run"
            " anew with these"
        )


def _weights(identity: Mapping[str, Any]) -> list[Any]:
    """The checksums of an extractor's networks, those of its parts among them."""
    inner = [one for part in identity.get("several", []) for one in _weights(part)]
    return [identity.get("weights"), identity.get("attention"), *inner]


def read_run(folder: Path) -> tuple[dict[str, Any], SystemConfig]:
    """A run's record and the config that it was built by; the run need not be whole.

    Raises:
        RunError: there is none, it is damaged, or another version of this project wrote it.
    """
    record = read_record(folder)
    if "config" not in record:
        raise RunError(f"{folder} is not finished: run landmarks index again, it goes on")
    try:
        return record, SystemConfig.model_validate(record["config"])
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunError(
            f"{folder / RUN} holds a config that this version does not know ({place}): build the"
            " run again (landmarks index)"
        ) from None


def local_branch_of(config: SystemConfig, device: str) -> LocalBranch | None:
    """What a system makes of local features, not yet fitted; ``None`` if nothing."""
    return None if config.local is None else build_local_branch(config.local, device)


def load_gallery(
    folder: Path,
    device: str,
    made_from: str | None,
    config: SystemConfig,
    local_branch: LocalBranch | None,
    augmentation: DatabaseAugmentation | None = None,
) -> tuple[Gallery, pd.DataFrame]:
    """The gallery of a run, its descriptors memory-mapped, and its rows.

    Args:
        folder: of the run.
        device: ``cpu`` or ``cuda``.
        made_from: checksum of the descriptors that the index was made from; ``None`` for a run
            of the version that did not keep it yet, and is not compared.
        config: of the system.
        companion: of the system, for gallery photographs whose features are not stored.
        augmentation: of the index's rows, for held-out scores.

    Raises:
        RunError: missing, damaged, or parts of different builds.
    """
    rows = read_table(folder / ROWS, ("id", "source", "landmark"))
    with reading(folder / "index"):
        known = Representation.from_arrays(read_arrays(folder / GALLERY))
        bank = Representation.from_arrays(read_arrays(folder / BANK))
        bank_ids = read_table(folder / BANK_ROWS, ("id",))["id"]
        eligible, bank_eligible = _eligible(config, folder, rows["id"], bank_ids)
        expanded = config.search.expansion.gallery > 0
        augmented = read_arrays(folder / AUGMENTED)[VECTORS] if expanded else known.vectors
    landmarks = sorted(rows["landmark"].unique())
    codes = pd.Categorical(rows["landmark"], categories=landmarks).codes.astype(np.int64)
    index = Searcher(
        FaissIndex.load(folder / "index", index_device(device), made_from),
        augmented,
        _inverted(config, folder / GALLERY),
        kept_source(config, local_branch, known, rows),
        config.search,
        augmentation,
    )
    bank_searcher = None
    if len(bank):
        alone = SearchConfig(share=config.search.share)
        bank_vectors = FaissIndex.build(bank.vectors, IndexConfig())
        bank_searcher = Searcher(
            bank_vectors, bank.vectors, _inverted(config, folder / BANK), config=alone
        )
    head = None
    if isinstance(config.extractor, TrainedConfig) and config.whitening is None:
        head = TrainedHead.load(trained_networks(config.extractor_in(folder))[0])
    try:
        _require_whole(config, index, bank_searcher)
        gallery = Gallery(
            known, codes, landmarks, bank, index, bank_searcher, eligible, bank_eligible, head
        )
        if known.calibration is not None:
            parts = part_of(rows["id"]), part_of(bank_ids)
            gallery = replace(
                gallery,
                calibrations=[
                    functools.partial(_calibration, gallery, config, device, number, *parts)
                    for number in range(known.calibration.shape[1])
                ],
            )
        return gallery, rows
    except ValueError as error:
        raise RunError(f"{folder} is damaged ({error}): run landmarks index again") from None


def _calibration(
    gallery: Gallery,
    config: SystemConfig,
    device: str,
    number: int,
    parts: Integers,
    bank_parts: Integers,
) -> Gallery:
    """The gallery as one part of the photographs has not taught it, which alone is held out; how
    it is searched stays as it is.

    The part's photographs are searched in it as well, as all are in the gallery that answers:
    without them a landmark of few photographs would have too few.
    """
    known, bank = (
        replace(one, vectors=_vectors_for(one, number), calibration=None)
        for one in (gallery.descriptors, gallery.bank)
    )
    # Few photographs teach fewer numbers, into which a product quantiser's parts may not go.
    alike = known.vectors.shape[1] == gallery.vectors.shape[1]
    settings = config.index if alike else IndexConfig()
    build = functools.partial(
        FaissIndex.build, config=settings, device=index_device(device), seed=config.seed
    )
    index, rows, augmentation = augmented_index(known.vectors, config.search.expansion, build)
    bank_searcher = gallery.bank_searcher
    if bank_searcher is not None:
        exact = FaissIndex.build(bank.vectors, IndexConfig())
        bank_searcher = replace(bank_searcher, index=exact, vectors=bank.vectors)
    own, bank_own = parts == number, bank_parts == number
    return replace(
        gallery,
        descriptors=known,
        bank=bank,
        searcher=replace(gallery.searcher, index=index, vectors=rows, augmentation=augmentation),
        bank_searcher=bank_searcher,
        eligible=own if gallery.eligible is None else own & gallery.eligible,
        bank_eligible=bank_own
        if gallery.bank_eligible is None
        else bank_own & gallery.bank_eligible,
    )


def _vectors_for(photographs: Representation, number: int) -> Vectors:
    """(n, e) their vectors without a part, of the numbers that it has."""
    assert photographs.calibration is not None
    return np.ascontiguousarray(photographs.calibration[:, number], dtype=np.float32)


def _eligible(
    config: SystemConfig, folder: Path, ids: pd.Series, bank_ids: pd.Series
) -> tuple[Flags | None, Flags | None]:
    """Which rows of gallery and bank taught no network of the extractor; ``None`` where none is
    trained."""
    networks = trained_networks(config.extractor_in(folder))
    if not networks:
        return None, None
    seen = [one for network in networks for one in seen_photographs(network)]
    gallery, bank = (~one.isin(seen).to_numpy(dtype=bool) for one in (ids, bank_ids))
    return gallery, bank


def _require_whole(config: SystemConfig, gallery: Searcher, bank: Searcher | None) -> None:
    """Raise ValueError where words or kept features are not there, or not those of the vectors."""
    for part in (gallery, bank):
        if part is not None and part.inverted is not None and len(part.inverted) != len(part):
            raise ValueError(
                f"words of {len(part.inverted)} photographs beside {len(part)} vectors"
            )
    if config.search.verification is not None and gallery.kept is None:
        raise ValueError("no features are kept for verification")


def _inverted(config: SystemConfig, folder: Path) -> InvertedFile | None:
    if config.local is None or config.local.words is None:
        return None
    return InvertedFile.load(folder, config.local.words)


def kept_source(
    config: SystemConfig,
    local_branch: LocalBranch | None,
    known: Representation,
    rows: pd.DataFrame,
) -> KeptSource | None:
    """The gallery's local features: as they are stored, or described again when needed."""
    if config.search.verification is None or config.search.stored:
        return known.kept
    assert local_branch is not None
    return Recomputed(
        [str(one) for one in rows["source"]], functools.partial(keep_one, local_branch)
    )


def keep_one(local_branch: LocalBranch, source: str) -> LocalFeatures:
    """The features kept of one photograph on disk; none where it cannot be read any more."""
    detector, compressor = local_branch.detector, local_branch.compressor
    assert compressor is not None
    try:
        photograph = read_photograph(source, detector.longest_side)
    except PhotographError as error:
        log.warning("%s cannot be verified with: %s", source, error)
        return keep_nothing(local_branch)
    return compressor.keep(detector.features([photograph])).one(0)


def keep_nothing(local_branch: LocalBranch) -> LocalFeatures:
    """The kept features of a photograph in which none was found."""
    assert local_branch.compressor is not None
    nothing = no_features(local_branch.detector.dimension, (0, 0))
    return local_branch.compressor.keep([nothing]).one(0)


def index_device(device: str) -> str:
    """Where the index goes: beside the network, unless FAISS cannot use that GPU."""
    problem = gpu_problem() if device == CUDA else None
    if problem:
        log.warning("the index stays on the processor: %s", problem)
        return CPU
    return device


def held_out_gallery(system: System) -> Gallery:
    """The run's gallery, from whose rows a photograph can be left out where they took others in."""
    gallery, config = system.gallery, system.config
    if not config.search.expansion.gallery or gallery.calibrations:
        return gallery  # those leave photographs out by themselves
    plain = FaissIndex.build(gallery.vectors, config.index, seed=config.seed)
    taken = DatabaseAugmentation.of(gallery.vectors, plain, config.search.expansion)
    return replace(gallery, searcher=replace(gallery.searcher, augmentation=taken))
