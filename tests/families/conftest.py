"""The small Wan bases, written once per run."""

from pathlib import Path

import cogvideox_bases
import dynamicrafter_bases
import easyanimate_bases
import framer_bases
import pytest
from wan_bases import SMALL_NETWORK, write_base

from cinelora.families.cogvideox.card import TINY as COGVIDEOX_TINY
from cinelora.families.dynamicrafter.card import TINY as DYNAMICRAFTER_TINY
from cinelora.families.easyanimate.card import TINY as EASYANIMATE_TINY
from cinelora.families.framer.card import TINY as FRAMER_TINY
from cinelora.families.wan.card import TINY


@pytest.fixture(scope="session")
def small_base(tmp_path_factory) -> Path:
    """A base of the variant SMALL."""
    return write_base(tmp_path_factory.mktemp("wan-small"), SMALL_NETWORK)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A base of the card's variant "tiny", with random weights."""
    return write_base(tmp_path_factory.mktemp("wan-tiny"), dict(TINY.network))


@pytest.fixture(scope="session")
def cogvideox_base(tmp_path_factory) -> Path:
    """A base of CogVideoX's variant "tiny", with random weights."""
    return cogvideox_bases.write_base(tmp_path_factory.mktemp("cogvideox-tiny"), dict(COGVIDEOX_TINY.network))


@pytest.fixture(scope="session")
def framer_base(tmp_path_factory) -> Path:
    """A base of Framer's variants "tiny" and "tiny-tracks", with random weights."""
    return framer_bases.write_base(tmp_path_factory.mktemp("framer-tiny"), dict(FRAMER_TINY.network))


@pytest.fixture(scope="session")
def easyanimate_bases_of(tmp_path_factory) -> dict[str, Path]:
    """Bases of EasyAnimate's small variants, with random weights, by variant."""
    folder = tmp_path_factory.mktemp("easyanimate-tiny")
    return {one.name: easyanimate_bases.write_base(folder / one.name, one) for one in EASYANIMATE_TINY.values()}


@pytest.fixture(scope="session")
def dynamicrafter_base(tmp_path_factory) -> Path:
    """A base of DynamiCrafter's variant "tiny", with random weights."""
    return dynamicrafter_bases.write_base(tmp_path_factory.mktemp("dynamicrafter-tiny"), DYNAMICRAFTER_TINY)
