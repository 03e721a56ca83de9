"""Owns the way from a recipe to encoded clips: plan, encoding, cache. Shared by check, cache, train and demo."""

from collections.abc import Callable, Sequence

from cinelora.base.log import console
from cinelora.config.load import Loaded
from cinelora.contracts.flow import Encoded, Slot
from cinelora.contracts.roles import Encoder
from cinelora.data.cache import Cache, FillReport
from cinelora.data.clips import load_clip, transform_of
from cinelora.data.encoding import Encoding, Live
from cinelora.data.plan import Plan, make_plan
from cinelora.data.sources import read_records
from cinelora.families import registry


def plan_of(loaded: Loaded) -> Plan:
    """What becomes of every clip. Raises DataError with all that is wrong (unless data.on_bad skips)."""
    recipe = loaded.recipe
    listing = read_records(recipe.data, loaded.folder)
    return make_plan(listing, recipe.data, loaded.variant.geometry, seed=recipe.train.seed)


def encoder_of(loaded: Loaded) -> Encoder:
    """The family's encoder; no weights are read before a tower is used."""
    return registry.open_encoder(loaded.family, loaded.variant, base=loaded.base, dtype=loaded.recipe.model.dtype)


def encoding_of(loaded: Loaded, encoder: Encoder, *, device: str) -> Encoding:
    """How this recipe turns slots into Encoded."""
    options, geometry, seed = loaded.recipe.data, loaded.variant.geometry, loaded.recipe.train.seed
    return Encoding(
        encoder=encoder,
        load=lambda slot: load_clip(slot, options, geometry, seed=seed),
        transform=lambda slot: transform_of(slot, options, geometry, seed=seed),
        dtype=options.encoded_dtype,
        device=device,
        seed=seed,
        conditions=loaded.variant.conditions,
    )


def cache_of(loaded: Loaded) -> Cache:
    """The cache that the recipe names."""
    folder = loaded.recipe.data.cache_dir
    return Cache(loaded.folder / folder if folder else loaded.run_folder.parent / "cache")


def fill(loaded: Loaded, plan: Plan, encoding: Encoding, *, verify: bool) -> tuple[FillReport, Plan]:
    """Encode what is missing; slots that cannot be encoded leave the plan (only under data.on_bad = "skip")."""
    report = fill_slots(loaded, [*plan.slots, *plan.held_out], encoding, verify=verify)
    lost = {slot.name: reason for slot, reason in report.left_out}
    return report, plan.without(lost) if lost else plan


def fill_slots(loaded: Loaded, slots: Sequence[Slot], encoding: Encoding, *, verify: bool) -> FillReport:
    """Encode what is missing of some slots."""
    return cache_of(loaded).fill(slots, encoding, verify=verify, on_bad=loaded.recipe.data.on_bad)


def reader_of(loaded: Loaded, encoding: Encoding) -> Callable[[Slot], Encoded]:
    """What hands out Encoded in the loop: the cache's shelf, or the encoder itself."""
    if loaded.recipe.data.cache == "off":
        return Live(encoding).read
    return cache_of(loaded).shelf(encoding.keys).read


def tell_fill(report: FillReport) -> None:
    """One line about what a fill did."""
    parts = [f"{report.made} made", f"{report.found} found", f"{report.rebuilt} rebuilt"]
    console.print(f"cache: {', '.join(parts)}, {report.bytes / 1e6:.1f} MB written")
