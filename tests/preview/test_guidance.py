import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cinelora.preview.guidance import NOTHING, SAID, SEEN, Guidance, rescaled

ANSWERS = {
    name: torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(k))
    for k, name in enumerate((SAID, SEEN, NOTHING))
}
SCALES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.5])


def given_to(guidance):
    return {name: ANSWERS[name] for name in guidance.asks}


@given(SCALES, st.none() | SCALES)
def test_what_is_asked_is_enough(text, picture):
    guidance, p = Guidance(text, picture), text if picture is None else picture
    said, seen, nothing = ANSWERS[SAID], ANSWERS[SEEN], ANSWERS[NOTHING]
    wanted = nothing + p * (seen - nothing) + text * (said - seen)
    torch.testing.assert_close(guidance.mixed(given_to(guidance)), wanted, rtol=1e-4, atol=1e-5)


@given(SCALES, st.none() | SCALES)
def test_guidance_that_rises_goes_from_one_to_the_whole_over_the_frames(text, picture):
    mixed, wanted = Guidance(text, picture, rises=True), []
    found = mixed.mixed(given_to(mixed))
    for frame, scale in enumerate((1.0, text)):  # the answers have two latent frames
        p = scale if picture is None else picture
        said, seen, nothing = (ANSWERS[name][:, :, frame] for name in (SAID, SEEN, NOTHING))
        wanted.append(nothing + p * (seen - nothing) + scale * (said - seen))
    torch.testing.assert_close(found, torch.stack(wanted, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("guidance", "asks"),
    [
        (Guidance(1), (SAID,)),
        (Guidance(1, 1), (SAID,)),
        (Guidance(7.5), (SAID, NOTHING)),
        (Guidance(7.5, 7.5), (SAID, NOTHING)),
        (Guidance(7.5, 1), (SAID, SEEN)),
        (Guidance(7.5, 3), (SAID, SEEN, NOTHING)),
        (Guidance(1, 3), (SAID, SEEN, NOTHING)),
        (Guidance(0, 3), (SEEN, NOTHING)),
        (Guidance(0, 3, 0.7), (SAID, SEEN, NOTHING)),
    ],
)
def test_nothing_is_asked_in_vain(guidance, asks):
    assert guidance.asks == asks


def test_rescaling_brings_each_clips_deviation_back():
    said, guided = ANSWERS[SAID], 3 * ANSWERS[NOTHING] + 1
    whole = rescaled(guided, said, 1.0)
    for one, wanted in zip(whole, said, strict=True):
        torch.testing.assert_close(one.std(), wanted.std())
    torch.testing.assert_close(rescaled(guided, said, 0.7), 0.7 * whole + 0.3 * guided)
    torch.testing.assert_close(rescaled(guided, said, 0.0), guided)


def test_guidance_rescales_by_what_is_said():
    guidance = Guidance(7.5, 2.0, 0.7)
    plain = Guidance(7.5, 2.0).mixed(given_to(guidance))
    torch.testing.assert_close(guidance.mixed(given_to(guidance)), rescaled(plain, ANSWERS[SAID], 0.7))
