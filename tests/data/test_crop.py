import numpy as np

from cinelora.contracts.flow import Bucket
from cinelora.data.crop import crop_box
from cinelora.data.options import ClipRules


def test_the_rule_says_which_part():
    bucket, rng = Bucket(1, 10, 10), np.random.default_rng(0)
    assert crop_box(10, 14, bucket, ClipRules(), rng) == (2, 0, 12, 10)
    assert crop_box(10, 14, bucket, ClipRules(crop="none"), rng) == (0, 0, 14, 10)
    assert {crop_box(10, 14, bucket, ClipRules(crop="random"), rng)[0] for _ in range(100)} == {0, 1, 2, 3, 4}
    assert crop_box(10, 14, bucket, ClipRules(crop="random")) == (2, 0, 12, 10)
