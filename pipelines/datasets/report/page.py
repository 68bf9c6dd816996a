"""What a dataset holds and how it was made: report.json, and one HTML page that needs nothing else.

The page plays a few of its clips, before and after they were latents, and some that were left out.
"""

import json
import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from infra.config import RunConfig
from infra.dataset.manifest import MANIFEST, DatasetManifest, read_manifest
from infra.dataset.outcome_table import OUTCOMES, count_outcomes, read_outcomes
from infra.errors import DatasetError
from infra.storage.object_store import ObjectStore
from pipelines.datasets.report.gallery import Gallery, make_gallery
from pipelines.datasets.report.sections import HISTOGRAMS, Values, dataset_page
from pipelines.datasets.report.shown_clips import ShownClip
from pipelines.preprocessing.summary import PreprocessSummary
from pipelines.reports.pictures import histogram_figure, png
from pipelines.reports.rendering import render_page

JSON_FILE = "report.json"
HTML_FILE = "report.html"
TEMPLATE = "datasets/report/page.html"
BINS = 30


def write_report(
    out: ObjectStore,
    clips: ObjectStore,
    config: RunConfig,
    summary: PreprocessSummary,
    seed: int = 0,
) -> str:
    """Write report.json and report.html into the dataset `out`; the page's path or URI.

    The page is smaller than 8 MB, whatever the clips are.

    Args:
        out: a committed dataset.
        clips: where its sources are.
        config: that it was made with.
        summary: what the run did.
        seed: of the choice of rows that are shown.

    Raises:
        DatasetError: there is no dataset, or it is damaged.
    """
    manifest, outcomes = _dataset(out)
    scores = {column: _distribution(outcomes[column]) for column in HISTOGRAMS}
    gallery = make_gallery(out, clips, config, outcomes, seed)
    values = {
        "name": PurePosixPath(out.uri).name,
        "dataset": out.uri,
        "digest": manifest.digest,
        "source": clips.uri,
        "preset": config.name,
        "commit": manifest.provenance.get("commit", ""),
        "counts": count_outcomes(outcomes).model_dump(),
        "kept_seconds": manifest.rows * config.data.seconds,
        "figures": summary.model_dump(include={"seconds", "stage_seconds", "rows_worked"}),
        "scores": scores,
        "gallery": _describe_rows(gallery, seed),
        "config": config.model_dump(mode="json", include={"name", "data", "codec"}),
        "codecs": manifest.provenance.get("codecs", {}),
    }
    histograms = {
        column: png(
            histogram_figure(
                distribution["edges"],
                distribution["counts"],
                distribution["median"],
                HISTOGRAMS[column][1],
            )
        )
        for column, distribution in scores.items()
        if distribution["rows"]
    }
    page = render_page(TEMPLATE, page=dataset_page(values, histograms, gallery))
    out.write(JSON_FILE, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())
    out.write(HTML_FILE, page.encode())
    return f"{out.uri}/{HTML_FILE}"


def _dataset(out: ObjectStore) -> tuple[DatasetManifest, pa.Table]:
    manifest, outcomes = read_manifest(out), read_outcomes(out)
    if manifest is None:
        raise DatasetError(
            f"expected a dataset in {out.uri}, got no {MANIFEST}; make one with"
            " `omniforcing preprocess`"
        )
    if outcomes.num_rows < manifest.rows:
        raise DatasetError(
            f"expected {manifest.rows} rows or more in {OUTCOMES} of {out.uri}, got"
            f" {outcomes.num_rows}; make the dataset again"
        )
    return manifest, outcomes


def _distribution(column: pa.ChunkedArray) -> Values:
    """How many rows have which value: `counts` between `edges`; `rows` is the sum."""
    values = column.to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return {"rows": 0, "median": None, "edges": [], "counts": []}
    counts, edges = np.histogram(values, BINS)
    return {
        "rows": int(values.size),
        "median": float(np.median(values)),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
    }


def _describe_rows(gallery: Gallery, seed: int) -> Values:
    """The rows of the gallery without their clips."""
    refused = [
        {**_json_values(row.values), "source": _describe_clip(row.source)}
        for rows in gallery.refused.values()
        for row in rows
    ]
    kept = [
        {
            **_json_values(row.values),
            "source": _describe_clip(row.source),
            "decoded": _describe_clip(row.decoded),
        }
        for row in gallery.kept
    ]
    return {"seed": seed, "kept": kept, "refused": refused}


def _describe_clip(clip: ShownClip) -> Values:
    return {"bytes": len(clip.mp4 or b""), "note": clip.note}


def _json_values(values: dict[str, Any]) -> Values:
    """As JSON has it: without NaN and infinity."""
    missing = {n for n, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
    return {name: None if name in missing else value for name, value in values.items()}
