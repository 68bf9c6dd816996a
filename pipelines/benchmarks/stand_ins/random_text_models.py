"""Gemma 3 12B and LTX-2's connectors with random weights: their shapes, to be timed."""

from typing import Any

import torch

# Of the released google/gemma-3-12b: what transformers' defaults leave to a checkpoint.
GEMMA_12B = {
    "vocab_size": 262_208,
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
}


def random_gemma(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Gemma 3 in the class of its release, with a small encoder of pictures, which nobody uses."""
    # Optional, and slow to import.
    from transformers import (  # noqa: PLC0415
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3TextConfig,
    )

    config = Gemma3Config(text_config=Gemma3TextConfig(**GEMMA_12B))
    return _build_on(lambda: Gemma3ForConditionalGeneration(config), device, dtype)


def random_connectors(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Any:
    """LTX-2's connectors, whose shapes are the defaults of diffusers' class."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors  # noqa: PLC0415

    return _build_on(LTX2TextConnectors, device, dtype)


def word_tokenizer() -> Any:
    """A tokenizer that knows no word, and gives a token for each."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    special = ("<pad>", "<eos>", "<bos>", "<unk>")
    numbers = {token: number for number, token in enumerate(special)}
    words = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{token[1:-1]}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def _build_on(build: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Build on the device and in that dtype from the start: no copy of 48 GB in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
