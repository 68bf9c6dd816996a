"""Light of a test card on a screen for BT.709, against the numbers of the standards."""

import pytest

from infra.media.child.colours import BT2020, HLG, PQ, _light, needs_table, shown_colour

REFERENCE_WHITE = {PQ: 0.5807, HLG: 0.75}  # ITU-R BT.2408, signals of 203 cd/m2


def levels(transfer, signals, is_wide=True):
    light = tuple(_light(signal, transfer) for signal in signals)
    return [round(255 * part) for part in shown_colour(light, transfer, is_wide)]


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_reference_white_is_near_the_white_of_the_screen(transfer):
    white = levels(transfer, [REFERENCE_WHITE[transfer]] * 3)
    assert max(white) - min(white) <= 1
    assert 230 <= white[0] <= 245


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_black_stays_black_and_what_shines_is_still_told_from_white(transfer):
    assert levels(transfer, [0.0] * 3) == [0, 0, 0]
    peak = levels(transfer, [0.7518 if transfer == PQ else 1.0] * 3)  # 1,000 cd/m2
    assert peak == [255, 255, 255]
    assert levels(transfer, [REFERENCE_WHITE[transfer] + 0.05] * 3)[0] < 255


def test_light_of_a_perfect_diffuser_and_a_grey_card_has_the_signals_of_the_standard():
    assert 203 * _light(0.5807, PQ) == pytest.approx(203, rel=2e-3)
    assert 203 * _light(0.3784, PQ) == pytest.approx(26, rel=0.03)
    assert _light(0.5, HLG) == pytest.approx(1 / 12)
    assert _light(1.0, HLG) == pytest.approx(1.0, abs=1e-4)


def test_a_red_of_the_screen_stays_as_saturated_as_it_is():
    # Light of BT.709's red at reference white, in primaries of BT.2020.
    red = shown_colour((0.6274, 0.0691, 0.0164), PQ, True)
    assert red[0] > 0.9
    assert max(red[1:]) < 0.06


def test_wide_gamut_without_high_range_keeps_its_greys():
    assert levels(1, [0.5] * 3) == pytest.approx([128, 128, 128], abs=1)
    assert levels(1, [1.0] * 3) == [255, 255, 255]


def test_only_what_a_screen_would_show_wrong_is_changed():
    assert needs_table(PQ, BT2020)
    assert needs_table(HLG, 1)
    assert needs_table(14, BT2020)
    assert not needs_table(1, 1)
    assert not needs_table(2, 2)
