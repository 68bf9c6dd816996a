"""Captions rewritten by a language model in this process: Gemma 3, from a folder of the user's."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Self

import torch

from actors.captions.prompts import Rewritten, chat_messages, cut_off_error
from actors.latents.codec_loading import own_device
from infra.config import RewriterConfig
from infra.errors import CheckpointError, ConfigError, MachineError
from infra.storage.package_files import resolve_file
from omniforcing_model.codecs.ltx2.pretrained import load_pretrained
from omniforcing_model.errors import WeightsError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model")


class GemmaRewriter:
    """Rewrites captions greedily, a batch in one pass.

    Greedy: the seeds choose nothing. The words of a caption do not depend on its neighbours, except
    where two continuations are as likely as the arithmetic of the device tells apart.
    """

    def __init__(self, model: Any, tokenizer: Any, config: RewriterConfig) -> None:
        """Wrap a causal model of transformers and its tokenizer."""
        self._model = model.eval().requires_grad_(False)
        self._config = config
        # The answer begins where the prompt ends: padding comes before it, and is masked.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer
        self._end_tokens = _end_tokens(model, tokenizer)
        # Here, because it is an optional dependency and takes seconds to import.
        from transformers import GenerationConfig  # noqa: PLC0415

        # In place of what the release recommends, which is to sample.
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=self._end_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )

    @classmethod
    def load(cls, config: RewriterConfig) -> Self:
        """Read `config.model`, a folder with weights and tokenizer; downloads nothing.

        In bfloat16 on the GPU that this process was given, else in float32 on one thread.
        ConfigError if transformers or the folder is missing, or the folder holds something else.
        """
        if find_spec("transformers") is None:
            raise ConfigError(
                "expected transformers for data.rewriter.kind gemma, got an installation without;"
                " install omniforcing-on-ray[ltx2]"
            )
        if config.model is None:
            raise ConfigError(
                "expected data.rewriter.model to name a folder of Gemma 3, got null; set it, or"
                " take data.rewriter.kind grammar"
            )
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  # optional, slow

        device = own_device()
        if device == "cpu":
            # As many actors as cores share a machine; threads of each would wait for each other.
            torch.set_num_threads(1)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        try:
            folder = resolve_file(config.model)
            model = load_pretrained(AutoModelForCausalLM, folder, dtype, exact=False)
        except (CheckpointError, WeightsError) as error:
            raise ConfigError(f"data.rewriter.model: {error}") from error
        # Without its file transformers makes a tokenizer that knows no words.
        if not any((folder / name).is_file() for name in _TOKENIZERS):
            raise ConfigError(
                f"data.rewriter.model: expected {' or '.join(_TOKENIZERS)} in {folder}, got none;"
                " copy it there with its configuration"
            )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        return cls(model.to(device), tokenizer, config)

    def rewrite(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],  # noqa: ARG002  # greedy
        complaints: Sequence[str] = (),
    ) -> list[Rewritten]:
        """One answer per caption; `complaints` say what was wrong with earlier ones, '' nothing.

        A batch that does not fit into the device's memory is tried in halves; what is wrong with
        the device itself is raised, for no caption is to blame: MachineError if not even one fits.
        """
        complaints = complaints or [""] * len(captions)
        prompts = [self._prompt(*pair) for pair in zip(captions, complaints, strict=True)]
        return self._answers(prompts)

    def _prompt(self, caption: str, complaint: str) -> str:
        messages = chat_messages(self._config, caption, complaint)
        if self._tokenizer.chat_template is None:
            return "".join(f"{message['content']}\n\n" for message in messages)
        prompt: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return prompt

    def _answers(self, prompts: Sequence[str]) -> list[Rewritten]:
        if not prompts:
            return []
        try:
            return self._generate(prompts)
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                raise MachineError(
                    "expected memory for one caption, got none left"
                    f" ({str(error).splitlines()[0]}); give the actor more, then run the same"
                    " command again: what is done stays done"
                ) from error
        # Outside the handler: its traceback would keep the tensors that did not fit.
        half = len(prompts) // 2
        return [*self._answers(prompts[:half]), *self._answers(prompts[half:])]

    @torch.no_grad()
    def _generate(self, prompts: Sequence[str]) -> list[Rewritten]:
        words = self._tokenizer(
            list(prompts),
            padding=True,
            # A chat template writes them itself.
            add_special_tokens=self._tokenizer.chat_template is None,
            return_tensors="pt",
        ).to(self._model.device)
        tokens = self._model.generate(
            input_ids=words.input_ids, attention_mask=words.attention_mask
        )
        return [self._answer(answer) for answer in tokens[:, words.input_ids.shape[1] :].tolist()]

    def _answer(self, tokens: Sequence[int]) -> Rewritten:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if any(token in self._end_tokens for token in tokens):
            return Rewritten(text)
        return Rewritten(text, cut_off_error(self._config))


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the release, and the tokenizer's own."""
    of_release = model.generation_config.eos_token_id
    tokens = of_release if isinstance(of_release, list) else [of_release]
    return sorted({token for token in (*tokens, tokenizer.eos_token_id) if token is not None})
