"""Raw captions to full sentences on picture and sound."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from actors.captions.endpoint_rewriter import EndpointRewriter
from actors.captions.gemma_rewriter import GemmaRewriter
from actors.captions.prompts import Rewritten
from actors.captions.validation import caption_problem
from infra.config import RewriterConfig
from infra.dataset.columns import Column
from infra.dataset.outcome_table import OK, QUARANTINED
from infra.dataset.reasons import Reason
from omniforcing_model.beacons.world import beacon_caption, parse_caption
from omniforcing_model.errors import CaptionError
from omniforcing_model.seeds import seed_of

_ATTEMPTS = 2
_SHOWN = 120


class CaptionRewriter(Protocol):
    """Turns raw captions into ones that a model learns from."""

    def rewrite(
        self, captions: Sequence[str], seeds: Sequence[int], complaints: Sequence[str] = ()
    ) -> list[Rewritten]:
        """One answer per caption, in their order; a caption that fails fails alone.

        `seeds` draw the wording: the same caption and seed give the same words, as far as the back
        end can. `complaints` say what was wrong with the answers before, '' where there were none.
        """
        ...


class GrammarRewriter:
    """A `CaptionRewriter` for captions of the beacon world; others stay as they are."""

    def rewrite(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        complaints: Sequence[str] = (),  # noqa: ARG002  # another seed is another wording
    ) -> list[Rewritten]:
        """A full sentence with the colour, rate and pitch of each caption."""
        return [self._sentence(*pair) for pair in zip(captions, seeds, strict=True)]

    def _sentence(self, caption: str, seed: int) -> Rewritten:
        try:
            return Rewritten(beacon_caption(parse_caption(caption), seed))
        except CaptionError:
            return Rewritten(caption, unchanged=True)


REWRITERS: Mapping[str, Callable[[RewriterConfig], CaptionRewriter]] = {
    "grammar": lambda _: GrammarRewriter(),
    "gemma": GemmaRewriter.load,
    "endpoint": EndpointRewriter,
}


class _Outcome(NamedTuple):
    """Of one caption; the fields are the columns that `RewriteCaptions` adds."""

    caption: str = ""
    rewritten: bool = False
    text_outcome: str = ""
    text_reason: str = ""
    text_error: str = ""


class RewriteCaptions:
    """Rewrites the captions of rows, checks them, and asks once more about those that are bad."""

    def __init__(self, config: RewriterConfig) -> None:
        """Load the back end that `config.kind` names; ConfigError if what it needs is missing."""
        self._config = config
        self._rewriter = REWRITERS[config.kind](config)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add `caption`, `rewritten`, `text_outcome`, `text_reason` and `text_error` to rows.

        Takes `caption_raw`, `clip_digest`, `needs_text` and `outcome`. Rows that need no text, or
        are not `ok`, pass with an empty caption and an empty outcome. The words depend on the clip
        and its caption, not on the batch. A caption without a good answer is `quarantined`.
        """
        raw = [str(caption) for caption in batch[Column.CAPTION_RAW]]
        digests = [str(digest) for digest in batch[Column.CLIP_DIGEST]]
        outcomes = [_Outcome()] * len(raw)
        open_rows = zip(batch[Column.NEEDS_TEXT], batch[Column.OUTCOME], strict=True)
        rows = [row for row, (needs, state) in enumerate(open_rows) if needs and state == OK]
        for first in range(0, len(rows), self._config.batch):
            group = rows[first : first + self._config.batch]
            captions = self._rewrite([raw[row] for row in group], [digests[row] for row in group])
            for row, outcome in zip(group, captions, strict=True):
                outcomes[row] = outcome
        return {**batch, **_columns(outcomes)}

    def _rewrite(self, raw: Sequence[str], digests: Sequence[str]) -> list[_Outcome]:
        """The outcomes of captions that go to the back end together; `digests` are their clips'."""
        outcomes: dict[int, _Outcome] = {}
        complaints = [""] * len(raw)
        waiting = list(range(len(raw)))
        for attempt in range(_ATTEMPTS):
            answers = self._rewriter.rewrite(
                [raw[place] for place in waiting],
                [_seed(digests[place], attempt) for place in waiting],
                [complaints[place] for place in waiting],
            )
            for place, answer in zip(waiting, answers, strict=True):
                outcomes[place], complaints[place] = self._outcome(answer)
            waiting = [place for place in waiting if outcomes[place].text_outcome != OK]
            if not waiting:
                break
        return [outcomes[place] for place in range(len(raw))]

    def _outcome(self, answer: Rewritten) -> tuple[_Outcome, str]:
        """The outcome of a caption with this answer, and what to say if it is asked for again."""
        if answer.unchanged:
            return _Outcome(answer.text, text_outcome=OK), ""
        excerpt = f": {_excerpt(answer.text)}" if answer.text else ""
        if answer.error:
            outcome = _Outcome(
                "", False, QUARANTINED, Reason.REWRITER_FAILED, f"{answer.error}{excerpt}"
            )
            # Without a text there was no answer, and the model need not hear of it.
            return outcome, "it was too long" if answer.text else ""
        problem = caption_problem(answer.text, self._config)
        if problem:
            return _Outcome(
                "", False, QUARANTINED, Reason.CAPTION_REJECTED, f"{problem}{excerpt}"
            ), problem
        return _Outcome(" ".join(answer.text.split()), True, OK), ""


def _excerpt(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else f"{words[:_SHOWN]}..."


def _columns(outcomes: Sequence[_Outcome]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in _Outcome.__annotations__.items():
        values = [getattr(outcome, name) for outcome in outcomes]
        columns[name] = np.array(values, dtype=bool if kind is bool else object)
    return columns


def _seed(clip_digest: str, attempt: int) -> int:
    """Clips with the same raw caption get different words, and each always the same ones."""
    return seed_of(clip_digest, bits=32, byteorder="big") + attempt
