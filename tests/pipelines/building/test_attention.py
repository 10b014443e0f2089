"""DELF's attention from a gallery to a run that uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from pipelines.building.attention import learn_attention
from pipelines.building.index import build_run
from pipelines.config import load_config
from retrieval.config import SystemConfig
from retrieval.errors import ConfigError, RunError
from retrieval.photographs.table import load_data_set
from retrieval.system import System
from retrieval.training.attention import AttentionConfig

DELF = (
    "{kind: delf, trunk: squeezenet1_1, layer: features.4, weights: none, size: 128,"
    " scales: [1.0], keypoints: 30, attention: %s}"
)
QUICK = AttentionConfig(hidden=16, size=96, epochs=1, validation=0.3)


def system(detector: str) -> SystemConfig:
    return load_config(
        "rootsift-vlad",
        [f"extractor.local={detector}", "extractor.reduce.dimension=16",
         "extractor.aggregation.words=4", "whitening.dimension=16"],
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_answers_with_the_attention_it_was_built_with(data: Path, tmp_path: Path) -> None:
    known, file = load_data_set(data), tmp_path / "new" / "attention.safetensors"
    config = system(DELF % file)
    # Named already, and not yet there.
    notes = learn_attention(config, QUICK, known, file, "cpu")
    assert (notes["landmarks"], notes["photographs"] + notes["held_out"]) == (6, 24)
    with safe_open(file, "pt") as told:
        assert json.loads(told.metadata()["notes"]) == notes
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    record = build_run(config, known, tmp_path / "run", "cpu")
    assert System.load(tmp_path / "run", "cpu").fingerprint == record["fingerprint"]
    moved = file.replace(tmp_path / file.name)
    learn_attention(config, QUICK.model_copy(update={"epochs": 2}), known, file, "cpu")
    with pytest.raises(RunError, match="was built with other weights"):
        System.load(tmp_path / "run", "cpu")
    moved.replace(file)
    again = build_run(config, known, tmp_path / "run", "cpu")
    assert again["fingerprint"] == record["fingerprint"]


def test_one_detector_is_learnt_for(data: Path, tmp_path: Path) -> None:
    for config, many in ((load_config("hog"), "no"), (two_detectors(), "2")):
        with pytest.raises(ConfigError, match=f"has {many} detectors of kind delf"):
            learn_attention(config, QUICK, load_data_set(data), tmp_path / "a", "cpu")


def two_detectors() -> SystemConfig:
    other = (DELF % "null").replace("features.4", "features.6")
    part = "{extractor: {kind: aggregated, local: %s}}"
    parts = f"[{part % (DELF % 'null')}, {part % other}]"
    return load_config("rootsift-vlad", [f"extractor={{kind: combination, parts: {parts}}}"])


def test_the_shipped_system_takes_one_file_for_both_its_networks(tmp_path: Path) -> None:
    (tmp_path / "resnet50.safetensors").write_bytes(b"")
    found = load_config("resnet50-delf").with_weights(tmp_path)
    assert found.local is not None
    for one in (found.extractor, found.local.detector):
        assert one.model_dump()["weights"] == str(tmp_path / "resnet50.safetensors")
    assert found.local.kept is not None
    assert found.local.kept.features * (found.local.kept.dimension + 8) <= 20_000
