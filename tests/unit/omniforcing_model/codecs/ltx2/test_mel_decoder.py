from types import SimpleNamespace

import pytest

from omniforcing_model.codecs.ltx2.mel_decoder import require_causal
from omniforcing_model.errors import WeightsError

CAUSAL = {
    "mid_block_add_attention": False,
    "attn_resolutions": None,
    "causality_axis": "height",
    "norm_type": "pixel",
}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"mid_block_add_attention": True}, "axis height, norm pixel, attention True"),
        ({"attn_resolutions": (8,)}, "axis height, norm pixel, attention True"),
        ({"causality_axis": "width"}, "axis width, norm pixel, attention False"),
        ({"norm_type": "group"}, "axis height, norm group, attention False"),
    ],
)
def test_a_vae_that_reads_the_future_is_refused_and_ltx_2s_is_not(other, message):
    require_causal(SimpleNamespace(**CAUSAL))
    with pytest.raises(WeightsError, match=message):
        require_causal(SimpleNamespace(**CAUSAL | other))
