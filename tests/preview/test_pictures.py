"""What previews start from: pictures to end at, videos to go on from, and what is told where that cannot be."""

import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.base.errors import RecipeError
from cinelora.contracts.flow import Bucket
from cinelora.families.fake.encode import FakeEncoder, FakeVae
from cinelora.media.write import write_mp4
from cinelora.preview.options import PreviewOptions
from cinelora.preview.pictures import (
    START,
    check_film,
    check_picture,
    check_pictures,
    film_latents,
    picture_conditions,
    shared,
    takes_ends,
    takes_pictures,
    unshown_conditions,
)

BUCKET = Bucket(9, 32, 32)


class Ends(FakeVae):
    """Tells of every frame how bright it is."""

    name, gives, optional, takes_end = "ends", ("brightness",), True, True

    def encode(self, clips, rng=None):
        return [{"brightness": clip.pixels.mean((0, 2, 3))} for clip in clips]


class EndingEncoder(FakeEncoder):
    def towers(self):
        return (*super().towers(), Ends())


def picture(folder, level):
    path = folder / f"{level}.png"
    Image.fromarray(np.full((32, 32, 3), level, dtype=np.uint8)).save(path)
    return path


def film(folder, frames, fps=8.0):
    path = folder / f"{frames}.mp4"
    write_mp4(path, np.stack([np.full((32, 48, 3), 6 * k, dtype=np.uint8) for k in range(frames)]), fps)
    return path


def test_pictures_to_end_at_come_behind_those_to_start_from(tmp_path):
    dark, bright = picture(tmp_path, 0), picture(tmp_path, 255)
    found = picture_conditions(EndingEncoder(), [dark], BUCKET, ends=[bright, dark])
    assert [one["brightness"].tolist() for one in found] == [[-1.0, 1.0], [-1.0, -1.0]]
    (alone,) = picture_conditions(EndingEncoder(), [bright], BUCKET)
    assert alone["brightness"].tolist() == [1.0]


def test_one_of_a_kind_stands_for_all():
    assert shared([1], [2, 3]) == [(1, 2), (1, 3)]
    assert shared([1, 2], [3, 4]) == [(1, 3), (2, 4)]
    assert shared([1], [2]) == [(1, 2)]


def test_ends_that_a_variant_cannot_take_are_told_with_all_else():
    assert takes_pictures(EndingEncoder())
    assert takes_ends(EndingEncoder())
    assert not takes_ends(FakeEncoder())
    check_pictures(EndingEncoder(), 1, 1)
    check_pictures(EndingEncoder(), 0)
    with pytest.raises(RecipeError) as caught:
        check_pictures(FakeEncoder(), 1, 2)
    assert [problem.where for problem in caught.value.problems] == ["preview.images", "preview.end_images"]


def test_videos_become_latents_of_their_first_frames_at_the_variants_rate(tmp_path):
    (found,) = film_latents(FakeEncoder(), [film(tmp_path, 40, fps=16.0)], BUCKET, 8.0)
    assert list(found) == [START]
    assert found[START].shape == (4, 3, 4, 4)
    levels = found[START].mean((0, 2, 3))
    assert (levels.diff() > 0).all(), "the clip gets brighter"
    (slow,) = film_latents(FakeEncoder(), [film(tmp_path, 20, fps=8.0)], BUCKET, 8.0)
    assert levels[-1] > slow[START].mean((0, 2, 3))[-1], "every other frame of the faster one"


def test_videos_that_are_too_short_are_told(tmp_path):
    assert check_film(film(tmp_path, 9), BUCKET, 8.0).frames == 9
    with pytest.raises(RecipeError, match="too short") as caught:
        check_film(film(tmp_path, 7), BUCKET, 8.0)
    (problem,) = caught.value.problems
    assert (problem.where, problem.allowed) == ("preview.videos", "1.12 seconds: 9 frames at 8 per second")
    with pytest.raises(RecipeError, match="a picture"):
        check_film(picture(tmp_path, 3), BUCKET, 8.0)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"end_images": ["a.png"]}, "end_images needs images"),
        ({"images": ["a.png"], "end_images": ["b.png"], "frames": 2}, "leaves nothing to draw"),
        ({"images": ["a.png"] * 3}, "images names 3 pictures for 2 prompts"),
        ({"images": ["a.png"], "end_images": ["b.png"] * 3}, "end_images names 3 pictures for 2 prompts"),
        ({"videos": ["a.mp4"] * 3}, "videos names 3 videos for 2 prompts"),
        ({"video_strength": 0.5}, "video_strength has no effect"),
        ({"videos": ["a.mp4"], "video_strength": 0.0}, "greater than 0"),
    ],
)
def test_options_that_cannot_be_are_refused(said, told):
    with pytest.raises(ValueError, match=told):
        PreviewOptions(prompts=["a", "b"], **said)


def test_strength_has_a_default_where_there_are_videos():
    assert PreviewOptions(prompts=["a"]).strength_of_videos == 1.0
    assert PreviewOptions(prompts=["a"], videos=["a.mp4"]).strength_of_videos == 0.7
    assert PreviewOptions(prompts=["a"], videos=["a.mp4"], video_strength=0.3).strength_of_videos == 0.3


def test_pictures_that_are_none_are_told_with_their_option(tmp_path):
    check_picture(picture(tmp_path, 7), "images")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(RecipeError, match="no picture") as caught:
        check_picture(tmp_path / "text.png", "end_images")
    (problem,) = caught.value.problems
    assert problem.where == "preview.end_images"
    assert problem.found


def test_a_single_frame_has_no_picture_to_start_from():
    with pytest.raises(RecipeError, match="nothing to draw"):
        check_pictures(EndingEncoder(), 1, frames=1)
    check_pictures(EndingEncoder(), 1, frames=9)
    check_pictures(EndingEncoder(), 0, frames=1)


class Telling(Ends):
    """Also says that nothing is shown."""

    tells_unshown = True

    def unshown(self, bucket):
        return {"brightness": torch.full((bucket.frames,), -1.0)}


def test_towers_may_say_that_nothing_is_shown():
    class TellingEncoder(FakeEncoder):
        def towers(self):
            return (*super().towers(), Telling())

    assert unshown_conditions(EndingEncoder(), BUCKET) == {}
    assert unshown_conditions(TellingEncoder(), BUCKET)["brightness"].tolist() == [-1.0] * 9
