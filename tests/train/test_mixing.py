"""Mixup and cutmix against a loop over pixels, and their distributions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raysearch.train import mixing
from raysearch.train.mixing import draw_boxes, draw_shares, inside, mix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed_by_hand(x, partner_N, box_N4, share_N):
    """Pixel by pixel: cutmix where an image has a box, mixup where it has a share."""
    mixed, shares = torch.empty_like(x), []
    side = x.shape[-1]
    for n, partner in enumerate(partner_N.tolist()):
        own = 0.0
        for row in range(side):
            for column in range(side):
                if box_N4[n] is None:
                    keep = float(share_N[n])
                else:
                    top, left, bottom, right = box_N4[n]
                    keep = 0.0 if top <= row < bottom and left <= column < right else 1.0
                here = (slice(None), row, column)
                mixed[n][here] = keep * x[n][here] + (1 - keep) * x[partner][here]
                own += keep
        shares.append(own / side**2)
    return mixed, torch.tensor(shares)


@settings(deadline=None, max_examples=25)
@given(
    images=st.integers(1, 6),
    channels=st.integers(1, 3),
    side=st.integers(1, 9),
    alpha=st.floats(0.05, 5),
    seed=st.integers(0, 2**31),
)
def test_cutmix_pastes_its_box_of_the_partner_and_counts_its_pixels(
    images, channels, side, alpha, seed
):
    x = torch.rand(images, channels, side, side, generator=generator(seed))
    mixed, partner_N, share_N = mix(x, generator(seed), cutmix=alpha)
    draws = generator(seed)
    assert torch.equal(partner_N, torch.randperm(images, generator=draws))
    boxes = draw_boxes(alpha, images, side, draws).tolist()
    expected, shares = mixed_by_hand(x, partner_N, boxes, None)
    assert torch.equal(mixed, expected)
    assert torch.equal(share_N, shares)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_mixup_mixes_each_image_with_its_partner(alpha):
    x = torch.rand(32, 3, 8, 8, generator=generator())
    mixed, partner_N, share_N = mix(x, generator(), mixup=alpha)
    assert sorted(partner_N.tolist()) == list(range(32))
    expected, shares = mixed_by_hand(x, partner_N, [None] * 32, share_N)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(share_N, shares)


def test_with_both_each_image_gets_one_of_the_two_at_equal_chance(monkeypatch):
    boxes = []
    draw = mixing.draw_boxes
    monkeypatch.setattr(mixing, "draw_boxes", lambda *args: boxes.append(draw(*args)) or boxes[-1])
    x = torch.rand(600, 1, 6, 6, generator=generator())
    mixed, partner_N, share_N = mix(x, generator(1), mixup=1.0, cutmix=1.0)
    paired = [n for n in range(600) if partner_N[n] != n]
    by_cutmix = []
    for n in paired:
        inside_SS = inside(boxes[0][n : n + 1], 6)[0]
        cut_SS = torch.where(inside_SS, x[partner_N[n], 0], x[n, 0])
        blend_SS = share_N[n] * x[n, 0] + (1 - share_N[n]) * x[partner_N[n], 0]
        if torch.equal(mixed[n, 0], cut_SS):
            by_cutmix.append(n)
            assert float(share_N[n]) == pytest.approx(1 - float(inside_SS.float().mean()))
        else:
            torch.testing.assert_close(mixed[n, 0], blend_SS)
    assert stats.binomtest(len(by_cutmix), len(paired), 0.5).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    share_N = draw_shares(alpha, 4000, generator())
    for point in (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999):  # float32 rounds many to 0 or 1
        expected = stats.beta(alpha, alpha).cdf(point)
        found = float((share_N <= point).float().mean())
        assert abs(found - expected) < 4 * (0.25 / 4000) ** 0.5


def test_boxes_have_the_drawn_area_and_centres_all_over_the_image():
    """Where a box is wholly inside, it is a square of its share, to the rounding of its sides."""
    side = 1000
    box_N4 = draw_boxes(1.0, 4000, side, generator()).double() / side
    top, left, bottom, right = box_N4.unbind(1)
    assert ((top >= 0) & (left >= 0) & (bottom <= 1) & (right <= 1)).all()
    whole = (top > 0) & (left > 0) & (bottom < 1) & (right < 1)
    torch.testing.assert_close((bottom - top)[whole], (right - left)[whole], atol=2e-3, rtol=0)
    small = whole & (bottom - top < 0.1)  # these are cut off at no centre but those near an edge
    centres = ((top + bottom) / 2)[small]
    assert stats.kstest((centres - 0.05) / 0.9, "uniform").pvalue > 1e-4
    # Uncut squares would have a mean area of 1/2; cut at the edges of a unit image, it is the
    # mean over r in (0, 1] with density 2 r (for alpha 1) of (r - r^2 / 4)^2.
    expected = 2 * (1 / 4 - 1 / 10 + 1 / 96)
    assert float(((bottom - top) * (right - left)).mean()) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1}])
def test_mixing_is_repeatable_and_leaves_input_and_global_randomness_alone(alphas):
    x = torch.rand(16, 1, 8, 8, generator=generator())
    before = x.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (mix(x, generator(seed), **alphas) for seed in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
