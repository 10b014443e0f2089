"""What a YAML file says of a whole system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from retrieval.classifiers.calibration import CalibrationConfig
from retrieval.classifiers.ensemble import EnsembleConfig
from retrieval.classifiers.network import NetworkClassifierConfig
from retrieval.classifiers.registry import ClassifierConfig
from retrieval.classifiers.rejection import RejectionConfig
from retrieval.classifiers.signals import NEAR
from retrieval.descriptors.aggregated import AggregatedConfig
from retrieval.descriptors.base import parts_of, with_parts
from retrieval.descriptors.local_branch import LocalBranchConfig
from retrieval.descriptors.registry import (
    ExtractorConfig,
    eight_bits,
    located,
    part_whitenings,
    with_quantised,
)
from retrieval.descriptors.trained import TrainedConfig, own_network, resolved
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.registry import AnyIndexConfig
from retrieval.index.searcher import SearchConfig
from retrieval.index.verification import require_estimator
from retrieval.local.registry import DetectorConfig
from retrieval.local.registry import located as located_detector
from retrieval.networks.trunks import find_weights
from retrieval.training.config import TrainingConfig
from retrieval.types import PartName, StrictModel, SystemName
from retrieval.vectors.whitening import WhiteningConfig

AUTO: Final = "auto"


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
            features are kept on disk and reused.
        index: how descriptors are searched.
        classifiers: by name; every one is fitted, evaluated and kept.
        answer: the classifier whose answer counts, or ``auto``: the best on held-out gallery
            photographs and the bank.
        refit_share: of a gallery of more than 100,000 photographs (and of the bank): while no more
            come and go than this, classifiers, thresholds and the index's lists stay as they were
            fitted (:mod:`retrieval.changes`). Smaller ones are fitted anew at each change.
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
    index: AnyIndexConfig = Field(default_factory=IndexConfig)
    classifiers: dict[PartName, Annotated[ClassifierConfig, Field(discriminator="kind")]]
    answer: str = AUTO
    refit_share: float = Field(0.05, ge=0.0, le=1.0)
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

    def within(self, training: Path, quantised: Path) -> SystemConfig:
        """The config with a run's own networks: its training, and those of eight bits."""
        changes = {"extractor": with_quantised(resolved(self.extractor, training), quantised)}
        if self.local is not None:
            detector = with_quantised(self.local.detector, quantised)
            changes["local"] = self.local.model_copy(update={"detector": detector})
        return self.model_copy(update=changes)

    def in_float32(self) -> SystemConfig:
        """The config whose extractor's networks run by torch, in float32, as derivatives need."""

        def change(one: Any) -> Any:
            fields = {"precision": "float32", "runtime": "torch", "quantised": None}
            own = {name: value for name, value in fields.items() if hasattr(one, name)}
            return one.model_copy(update=own)

        return self.model_copy(update={"extractor": with_parts(self.extractor, change)})

    @property
    def detectors(self) -> list[DetectorConfig]:
        """Of local features, the extractor's and those of the local branch; each once."""
        parts = parts_of(self.extractor)
        found = [one.local for one in parts if isinstance(one, AggregatedConfig)]
        if self.local is not None:
            found.append(self.local.detector)
        return [one for i, one in enumerate(found) if one not in found[:i]]

    @property
    def quantised(self) -> list[Any]:
        """The configs of the networks that are to be of eight bits, each once."""
        wanted = eight_bits(self.extractor)
        if self.local is not None:
            wanted += eight_bits(self.local.detector)
        return [one for i, one in enumerate(wanted) if one not in wanted[:i]]

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
            detector = located_detector(self.local.detector, given)
            changes["local"] = self.local.model_copy(update={"detector": detector})
        return self.model_copy(update=changes)
