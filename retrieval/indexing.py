"""The index of a run: written from what photographs are described by, loaded as the gallery that
is searched, and the galleries that thresholds are fitted in."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from retrieval.additions import Addition
from retrieval.config import SystemConfig
from retrieval.describing import aggregated_folder, plain_recipe
from retrieval.descriptors.cross_fit import part_of
from retrieval.descriptors.local_branch import LocalBranch
from retrieval.descriptors.representation import (
    KEPT,
    VECTORS,
    KeptFeatures,
    Representation,
    write_descriptors,
)
from retrieval.descriptors.trained import TrainedConfig, trained_networks
from retrieval.descriptors.trained_head import TrainedHead
from retrieval.devices import CPU, CUDA
from retrieval.errors import PhotographError, RunError, TableError
from retrieval.index.expansion import DatabaseAugmentation, augmented_index
from retrieval.index.faiss_factory import IndexConfig
from retrieval.index.faiss_index import FaissIndex
from retrieval.index.gallery import Gallery
from retrieval.index.inverted_file import InvertedFile
from retrieval.index.milvus_index import MilvusConfig, MilvusIndex, holds
from retrieval.index.neighbours import VectorIndex
from retrieval.index.registry import local_settings
from retrieval.index.searcher import KeptSource, Recomputed, SearchConfig, Searcher
from retrieval.local.compression import CompressedFeatures
from retrieval.local.features import LocalFeatures, no_features
from retrieval.photographs.decoding import read_photograph
from retrieval.run import Run
from retrieval.storage.files import (
    atomic_write,
    read_arrays,
    read_table,
    reading,
    remove_folder,
    write_arrays,
)
from retrieval.storage.fingerprint import checksum
from retrieval.storage.shards import OK, ShardStore
from retrieval.threads import in_threads
from retrieval.training.checkpoints import seen_photographs
from retrieval.types import Flags, Vectors
from retrieval.vectors.gpu import gpu_problem

log = logging.getLogger(__name__)

SERVER: Final = "milvus"
"""Folder within that of the index, for what a server holds of gallery and bank."""


def collect_rows(
    run: Run,
    config: SystemConfig,
    additions: Sequence[Addition],
    local_branch: LocalBranch | None,
) -> dict[str, Any]:
    """Write the gallery's rows and descriptors, and the bank's, from the additions' shards.

    Returns:
        how many photographs there are of either, how many failed, and the landmarks that ``lost``
        all of theirs.

    Raises:
        TableError: nothing is left of the gallery.
    """
    _report_failures(additions)
    rows = pd.concat([one.table[one.gallery] for one in additions], ignore_index=True)
    bank = pd.concat([one.table[one.bank] for one in additions], ignore_index=True)
    if not len(rows):
        raise TableError("no gallery photograph could be described: look at the reasons above")
    write_lists(run, rows, bank)
    stores = [one.store for one in additions]
    in_gallery = [one.gallery.to_numpy(dtype=bool) for one in additions]
    in_bank = [one.bank.to_numpy(dtype=bool) for one in additions]
    _write(run.gallery, lambda: chosen_rows(stores, in_gallery))
    _write(run.bank, lambda: chosen_rows(stores, in_bank))
    remove_folder(run.kept)
    if config.search.verification is not None and not config.search.stored:
        assert local_branch is not None
        at_hand = _plain_stores(run, additions)
        if at_hand is None:
            _keep_bank(run, [str(one) for one in bank["source"]], local_branch)
        else:
            _write(run.bank, lambda: _with_kept(stores, at_hand, in_bank))
            chosen = functools.partial(chosen_rows, at_hand, in_gallery)
            _write(run.kept, lambda: (one.kept for one in chosen() if one.kept is not None))
    wanted = {label for one in additions for label in one.table[one.left]["landmark"].dropna()}
    return {
        "lost": sorted(wanted - set(rows["landmark"])),
        "gallery": len(rows),
        "bank": len(bank),
        "failed": int(sum((one.table["status"] != OK).sum() for one in additions)),
        "landmarks": int(rows["landmark"].nunique()),
    }


def write_lists(run: Run, rows: pd.DataFrame, bank: pd.DataFrame) -> None:
    """Write which photographs are the gallery's rows, and which the bank's."""
    for path, table in (
        (run.rows, rows[["id", "source", "landmark"]]),
        (run.bank_rows, bank[["id"]]),
    ):
        atomic_write(path, functools.partial(table.to_parquet, index=False))


def _report_failures(additions: Sequence[Addition]) -> None:
    for table in (one.table for one in additions):
        failed = table[table["status"] != OK]
        for _, row in failed.head(10).iterrows():
            place = f"row {row['row']}, " if row["row"] else ""  # folders have no rows
            log.warning("%s%s: %s", place, row["source"], row["reason"])
        if len(failed) > 10:
            log.warning("and %d more photographs that failed", len(failed) - 10)


def _write(folder: Path, blocks: Callable[[], Iterable[Representation | KeptFeatures]]) -> None:
    remove_folder(folder)  # what another config kept there
    write_descriptors(folder, blocks)


def chosen_rows(stores: Sequence[ShardStore], wanted: Sequence[Flags]) -> Iterator[Representation]:
    """What chosen rows are described by, shard by shard; all of them went well."""
    for store, flags in zip(stores, wanted, strict=True):
        start = 0
        for shard in store.shards():
            ok = np.array(shard.statuses, dtype=object) == OK
            here = flags[start : start + len(ok)]
            yield Representation.from_arrays(shard.arrays)[np.flatnonzero(here[ok])]
            start += len(ok)


def _plain_stores(run: Run, additions: Sequence[Addition]) -> list[ShardStore] | None:
    """The stores of the same photographs that have their local features, or ``None``."""
    stores = []
    for one in additions:
        recipe = plain_recipe(one.store.made_from)
        store = ShardStore.whole(aggregated_folder(run, one.name), recipe, len(one.table))
        if store is None:
            return None
        stores.append(store)
    return stores


def _with_kept(
    stores: Sequence[ShardStore], at_hand: Sequence[ShardStore], wanted: Sequence[Flags]
) -> Iterator[Representation]:
    """:func:`chosen_rows`, with the local features of other stores of the same photographs."""
    for one, other in zip(chosen_rows(stores, wanted), chosen_rows(at_hand, wanted), strict=True):
        yield replace(one, kept=other.kept)


def with_kept(run: Run, gallery: Gallery) -> Gallery:
    """The gallery with its local features as they were when it was described, if they are still
    at hand: where they are not stored they would be described again."""
    try:
        kept = CompressedFeatures.from_arrays(read_arrays(run.kept))
    except (RunError, KeyError):
        return gallery
    if len(kept) != len(gallery.descriptors):
        return gallery
    return replace(gallery, searcher=replace(gallery.searcher, kept=kept))


def _keep_bank(run: Run, sources: Sequence[str], local_branch: LocalBranch) -> None:
    """Keep the bank's local features: held-out scores ask for them, and there are few."""
    arrays = keep_all(local_branch, sources).arrays(KEPT)
    forms = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    write_arrays(run.bank, forms, [arrays])


def keep_all(local_branch: LocalBranch, sources: Iterable[str]) -> CompressedFeatures:
    """The features kept of photographs on disk."""
    kept = list(in_threads(functools.partial(keep_one, local_branch), sources))
    assert local_branch.compressor is not None
    return CompressedFeatures.of(kept, local_branch.compressor.dimension)


def index_gallery(
    run: Run, config: SystemConfig, device: str, local_branch: LocalBranch | None
) -> tuple[dict[str, Any], DatabaseAugmentation | None]:
    """Index the gallery's vectors, and both its and the bank's words.

    Returns:
        what run.json says of it, and what the vectors took in of their neighbours, if anything.
    """
    settings, where = local_settings(config.index), index_device(device)
    known = Representation.from_arrays(read_arrays(run.gallery))
    indexed, augmentation = run.gallery, None
    remove_folder(run.augmented)
    if config.search.expansion.gallery:
        indexed, vectors = run.augmented, known.vectors
        plain = FaissIndex.build(vectors, settings, where, config.seed)
        augmentation = DatabaseAugmentation.of(vectors, plain, config.search.expansion)
        form = {VECTORS: (np.dtype(np.float32), vectors.shape)}
        write_arrays(indexed, form, ({VECTORS: block} for block in augmentation.blocks()))
    made_from = checksum(indexed / f"{VECTORS}.npy")
    index: FaissIndex | MilvusIndex
    if isinstance(config.index, MilvusConfig):
        index = _send(run, config.index, read_arrays(indexed)[VECTORS], made_from)
    else:
        rows = read_arrays(indexed)[VECTORS]
        index = FaissIndex.build_into(run.index, rows, settings, where, config.seed, made_from)
        remove_folder(run.index / SERVER)  # if another engine was asked before
    per_image = index.bytes_per_row + (known.kept.bytes_per_row if known.kept else 0.0)
    if local_branch is not None and local_branch.words is not None:
        bank = Representation.from_arrays(read_arrays(run.bank))
        _index_words(bank, run.bank, local_branch)
        per_image += _index_words(known, run.gallery, local_branch)
    told = {"factory": index.factory, "bytes_per_image": per_image, "descriptors": made_from}
    return {"index": told, "dimension": int(known.vectors.shape[1])}, augmentation


def _send(run: Run, config: MilvusConfig, vectors: Vectors, made_from: str) -> MilvusIndex:
    """Have a server hold gallery and bank, each in a collection of its own."""
    FaissIndex.remove(run.index)  # if it was asked before
    rows, bank = read_table(run.rows, ("id", "landmark")), read_table(run.bank_rows, ("id",))
    none = read_arrays(run.bank)[VECTORS]
    folder, ids = run.index / SERVER / "bank", bank["id"].tolist()
    MilvusIndex.synchronise(folder, config, none, ids, [""] * len(bank), made_from)
    return MilvusIndex.synchronise(
        run.index / SERVER / "gallery",
        config,
        vectors,
        rows["id"].tolist(),
        rows["landmark"].tolist(),
        made_from,
    )


def is_lost(run: Run, config: MilvusConfig) -> bool:
    """Whether a server does not hold what a finished build sent it of gallery and bank.

    Raises:
        MilvusError: the server is away.
    """
    return not all(holds(run.index / SERVER / one, config) for one in ("gallery", "bank"))


def _open(run: Run, config: SystemConfig, device: str, made_from: str | None) -> VectorIndex:
    if isinstance(config.index, MilvusConfig):
        return MilvusIndex.load(run.index / SERVER / "gallery", config.index, made_from)
    return FaissIndex.load(run.index, index_device(device), made_from)


def _index_words(photographs: Representation, folder: Path, local_branch: LocalBranch) -> float:
    """Write the inverted file of photographs' words; its bytes a photograph."""
    assert photographs.words is not None
    assert local_branch.words is not None
    inverted = InvertedFile.build(photographs.words, local_branch.words.config, local_branch.bits)
    inverted.save(folder)
    return inverted.bytes_per_row


def load_gallery(
    run: Run,
    config: SystemConfig,
    device: str,
    local_branch: LocalBranch | None,
    made_from: str | None = None,
    index: VectorIndex | None = None,
) -> tuple[Gallery, pd.DataFrame]:
    """The gallery of a run, its descriptors memory-mapped, and its rows.

    Args:
        run: with an index.
        config: of the system.
        device: ``cpu`` or ``cuda``.
        local_branch: of the system, for gallery photographs whose features are not stored.
        made_from: checksum of the descriptors that the index was made from; ``None`` for a run
            of the version that did not keep it yet, and is not compared.
        index: of the gallery, where it is in memory already.

    Returns:
        the gallery, and ``id``, ``source`` and ``landmark`` of each of its rows.

    Raises:
        RunError: missing, damaged, or parts of different builds.
    """
    rows = read_table(run.rows, ("id", "source", "landmark"))
    with reading(run.index):
        known = Representation.from_arrays(read_arrays(run.gallery))
        bank = Representation.from_arrays(read_arrays(run.bank))
        bank_ids = read_table(run.bank_rows, ("id",))["id"]
        eligible, bank_eligible = _eligible(run, config, rows["id"], bank_ids)
        expanded = config.search.expansion.gallery > 0
        indexed = read_arrays(run.augmented)[VECTORS] if expanded else known.vectors
    landmarks = sorted(rows["landmark"].unique())
    codes = pd.Categorical(rows["landmark"], categories=landmarks).codes.astype(np.int64)
    index = index or _open(run, config, device, made_from)
    kept = _kept_source(config, local_branch, known, rows)
    try:
        if config.search.verification is not None and kept is None:
            raise ValueError("no features are kept for verification")
        inverted = _inverted(run.gallery, config, len(known))
        gallery = Gallery(
            descriptors=known,
            codes=codes,
            landmarks=landmarks,
            bank=bank,
            searcher=Searcher(index, indexed, inverted, kept, config.search),
            bank_searcher=_bank_searcher(run, config, bank),
            eligible=eligible,
            bank_eligible=bank_eligible,
            head=_head(run, config),
        )
    except ValueError as error:
        raise RunError(f"{run} is damaged ({error}): run landmarks index again") from None
    return gallery, rows


def calibration_galleries(
    run: Run,
    config: SystemConfig,
    gallery: Gallery,
    device: str,
    augmentation: DatabaseAugmentation | None = None,
) -> list[Gallery]:
    """The galleries in which photographs are held out to fit thresholds and fusions.

    Where photographs that taught the descriptors would be told from new ones, each of these is
    described as if one part of the photographs had not taught it, and holds out that part alone
    (:mod:`retrieval.descriptors.cross_fit`). Elsewhere it is the gallery itself.

    Args:
        run: of the gallery.
        config: of the system.
        gallery: as :func:`load_gallery` loads it.
        device: ``cpu`` or ``cuda``.
        augmentation: of the gallery's index, where it is known already.

    Returns:
        at least one gallery; each photograph is held out in one of them at most.
    """
    expansion, calibration = config.search.expansion, gallery.descriptors.calibration
    if calibration is not None:
        ids, bank_ids = (read_table(one, ("id",))["id"] for one in (run.rows, run.bank_rows))
        parts, bank_parts = part_of(ids), part_of(bank_ids)
        return [
            _without_part(gallery, config, device, part, parts == part, bank_parts == part)
            for part in range(calibration.shape[1])
        ]
    if not expansion.gallery:
        return [gallery]
    # Rows took others in: one that is held out has to be left out of them.
    if augmentation is None:
        settings = local_settings(config.index)
        plain = FaissIndex.build(gallery.vectors, settings, index_device(device), config.seed)
        augmentation = DatabaseAugmentation.of(gallery.vectors, plain, expansion)
    return [replace(gallery, searcher=replace(gallery.searcher, augmentation=augmentation))]


def _without_part(
    gallery: Gallery, config: SystemConfig, device: str, part: int, own: Flags, bank_own: Flags
) -> Gallery:
    """The gallery as one part of the photographs has not taught it, which alone is held out; how
    it is searched stays as it is.

    The part's photographs are searched in it as well, as all are in the gallery that answers:
    without them a landmark of few photographs would have too few.
    """
    known, bank = (_as_without(one, part) for one in (gallery.descriptors, gallery.bank))
    # Few photographs teach fewer numbers, into which a product quantiser's parts may not go.
    alike = known.vectors.shape[1] == gallery.vectors.shape[1]
    settings = local_settings(config.index) if alike else IndexConfig()
    build = functools.partial(
        FaissIndex.build, config=settings, device=index_device(device), seed=config.seed
    )
    index, rows, augmentation = augmented_index(known.vectors, config.search.expansion, build)
    bank_searcher = gallery.bank_searcher
    if bank_searcher is not None:
        exact = FaissIndex.build(bank.vectors, IndexConfig())
        bank_searcher = replace(bank_searcher, index=exact, vectors=bank.vectors)
    return replace(
        gallery,
        descriptors=known,
        bank=bank,
        searcher=replace(gallery.searcher, index=index, vectors=rows, augmentation=augmentation),
        bank_searcher=bank_searcher,
        eligible=_both(own, gallery.eligible),
        bank_eligible=_both(bank_own, gallery.bank_eligible),
    )


def _as_without(photographs: Representation, part: int) -> Representation:
    """Photographs by the vectors that they have without a part, of the numbers that it has."""
    assert photographs.calibration is not None
    vectors = np.ascontiguousarray(photographs.calibration[:, part], dtype=np.float32)
    return replace(photographs, vectors=vectors, calibration=None)


def _both(one: Flags, other: Flags | None) -> Flags:
    return one if other is None else one & other


def _eligible(
    run: Run, config: SystemConfig, ids: pd.Series, bank_ids: pd.Series
) -> tuple[Flags | None, Flags | None]:
    """Which rows of gallery and bank no network of the extractor was trained on; ``None`` where
    none is trained."""
    networks = trained_networks(config.within(run.training, run.quantised).extractor)
    if not networks:
        return None, None
    seen = [one for network in networks for one in seen_photographs(network)]
    gallery, bank = (~one.isin(seen).to_numpy(dtype=bool) for one in (ids, bank_ids))
    return gallery, bank


def _bank_searcher(run: Run, config: SystemConfig, bank: Representation) -> Searcher | None:
    """The bank is searched exactly, as it is: nothing expanded or verified."""
    if not len(bank):
        return None
    index: VectorIndex
    if isinstance(config.index, MilvusConfig):
        index = MilvusIndex.load(run.index / SERVER / "bank", config.index)
    else:
        index = FaissIndex.build(bank.vectors, IndexConfig())
    inverted = _inverted(run.bank, config, len(bank))
    return Searcher(index, bank.vectors, inverted, config=SearchConfig(share=config.search.share))


def _inverted(folder: Path, config: SystemConfig, photographs: int) -> InvertedFile | None:
    """The visual words of gallery or bank; a ValueError where they are of other photographs."""
    if config.local is None or config.local.words is None:
        return None
    inverted = InvertedFile.load(folder, config.local.words)
    if len(inverted) != photographs:
        raise ValueError(f"words of {len(inverted)} photographs beside {photographs} vectors")
    return inverted


def _head(run: Run, config: SystemConfig) -> TrainedHead | None:
    """What the extractor's own network ends in, where descriptors are its embeddings."""
    if not isinstance(config.extractor, TrainedConfig) or config.whitening is not None:
        return None
    return TrainedHead.load(
        trained_networks(config.within(run.training, run.quantised).extractor)[0]
    )


def _kept_source(
    config: SystemConfig,
    local_branch: LocalBranch | None,
    known: Representation,
    rows: pd.DataFrame,
) -> KeptSource | None:
    """The gallery's local features: as they are stored, or described again when needed."""
    if config.search.verification is None or config.search.stored:
        return known.kept
    assert local_branch is not None
    sources = [str(one) for one in rows["source"]]
    return Recomputed(sources, functools.partial(keep_one, local_branch))


def keep_one(local_branch: LocalBranch, source: str) -> LocalFeatures:
    """The features kept of one photograph on disk; none where it cannot be read any more."""
    detector, compressor = local_branch.detector, local_branch.compressor
    assert compressor is not None
    try:
        found = detector.features([read_photograph(source, detector.longest_side)])
    except PhotographError as error:
        log.warning("%s cannot be verified with: %s", source, error)
        found = [no_features(detector.dimension, (0, 0))]
    return compressor.keep(found).one(0)


def index_device(device: str) -> str:
    """Where the index goes: beside the network, unless FAISS cannot use that GPU."""
    problem = gpu_problem() if device == CUDA else None
    if problem:
        log.warning("the index stays on the processor: %s", problem)
        return CPU
    return device
