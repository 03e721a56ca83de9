"""Owns the way from a recipe to encoded clips: plan, encoding, cache. Shared by check, cache, train and demo."""

from collections.abc import Callable, Iterable

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.log import console
from cinelora.commands.speed import lay_out
from cinelora.config.load import Loaded
from cinelora.contracts.flow import Encoded, Slot
from cinelora.contracts.roles import Encoder
from cinelora.data.cache import Cache
from cinelora.data.cache_fill import FillReport, Maker
from cinelora.data.cache_plan import in_words
from cinelora.data.cache_work import WHOLE, Share, word_slots
from cinelora.data.captions import without_words
from cinelora.data.clips import load_clip, load_mask, transform_of
from cinelora.data.encoding import Encoding, Live
from cinelora.data.options import DataOptions
from cinelora.data.plan import Plan, make_plan
from cinelora.data.rules import rules_by_source
from cinelora.data.shards import Shards, check_stream, is_streamed
from cinelora.data.sources import read_records
from cinelora.data.survey import first_look, survey
from cinelora.families import registry
from cinelora.train.schedules import kept_counts


def data_of(loaded: Loaded) -> DataOptions:
    """[data] as the variant asks for it: where no text is read, captions are not looked for."""
    data = loaded.recipe.data
    return data if loaded.variant.reads_text else without_words(data)


def plan_of(loaded: Loaded) -> Plan:
    """What becomes of every clip; of shards, the held-out ones, as the others are only seen when they are trained on.

    Raises DataError with all that is wrong (unless data.on_bad skips), RecipeError for what shards cannot do.
    """
    recipe = loaded.recipe
    if is_streamed(recipe.data, loaded.folder):
        check_streamed(loaded)
        return first_look(shards_of(loaded), max_clips=recipe.held_out.max_clips)
    listing = read_records(data_of(loaded), loaded.folder)
    options, seed = recipe.data, recipe.train.seed
    return make_plan(listing, options, loaded.variant.geometry, seed=seed, micro_size=recipe.train.micro_size)


def survey_of(loaded: Loaded) -> Plan | None:
    """What would become of every sample of shards, those that cannot be used as rows; None where nothing streams."""
    return survey(shards_of(loaded), lenient=True) if is_streamed(loaded.recipe.data, loaded.folder) else None


def check_streamed(loaded: Loaded) -> None:
    """See that a recipe of shards asks for nothing that a stream cannot give. Raises RecipeError with all it does."""
    data, epochs = loaded.recipe.data, loaded.recipe.train.epochs
    if not is_streamed(data, loaded.folder):
        return
    try:
        check_stream(data, loaded.folder, epochs=epochs)
        kept_counts(loaded.recipe.train, None)
    except RecipeError as error:
        raise RecipeError(*(loaded.source.located(problem) for problem in error.problems)) from error


def refuse_streamed(loaded: Loaded) -> None:
    """Raise RecipeError where a source is shards, whose clips are gone once they were measured."""
    if is_streamed(loaded.recipe.data, loaded.folder):
        what, do = "shards cannot have a report: it looks into clips again", "leave --report out, or unpack some shards"
        raise RecipeError(Problem(what, found="tar shards", do=do))


def shards_of(loaded: Loaded) -> Shards:
    """The shards of a recipe that streams. Raises DataError where a source has none."""
    return Shards(data_of(loaded), loaded.folder, loaded.variant.geometry, seed=loaded.recipe.train.seed)


def encoder_of(loaded: Loaded) -> Encoder:
    """The family's encoder; no weights are read before a tower is used."""
    model = loaded.recipe.model
    encoder = registry.open_encoder(loaded.family, loaded.variant, base=loaded.base, dtype=model.dtype)
    _set(loaded, encoder, "tiling", loaded.recipe.memory.vae_tiling == "on", default=False, option="memory.vae_tiling")
    _set(loaded, encoder, "compat", model.vae_compat, default="none", option="model.vae_compat")
    _set(loaded, encoder, "dtype", model.vae_dtype, default="fp32", option="model.vae_dtype")
    set_if_said(loaded, encoder.towers(), "shows", model.image_frame, option="image_frame")
    set_if_said(loaded, encoder.towers(), "pace", model.pace, option="pace")
    if loaded.recipe.speed.channels_last_vae:
        lay_out(encoder.towers())
    for tower in encoder.towers():
        if hasattr(tower, "as_script"):
            tower.as_script = loaded.recipe.noise.compat == "ddpm"
    return encoder


def set_if_said(loaded: Loaded, owners: Iterable[object], name: str, value: object, *, option: str) -> None:
    """Take over an option of [model] that only some families have; None = it was left out.

    Raises RecipeError where nobody of `owners` has such an attribute.
    """
    if value is None:
        return
    having = [one for one in owners if hasattr(one, name)]
    if not having:
        where, do = loaded.source.where(("model", option)), f"remove model.{option}"
        what = f"the variant {loaded.variant.name} of {loaded.family.name} has nothing that model.{option} is for"
        raise RecipeError(Problem(what, found=f"{option} = {value}", where=where, do=do))
    for one in having:
        setattr(one, name, value)


def _set(loaded: Loaded, encoder: Encoder, name: str, value: object, *, default: object, option: str) -> None:
    """Take a setting of the autoencoder over. Raises RecipeError where this family's has none of the kind."""
    if value == default:
        return
    towers = [tower for tower in encoder.towers() if "mean" in tower.gives and hasattr(tower, name)]
    if not towers:
        where, do = loaded.source.where(tuple(option.split("."))), f"remove {option}"
        what = f"the autoencoder of {loaded.family.name} has no setting for {option}"
        raise RecipeError(Problem(what, found=f"{option} = {value!r}", where=where, do=do))
    for tower in towers:
        setattr(tower, name, value)


def encoding_of(loaded: Loaded, encoder: Encoder, *, device: str) -> Encoding:
    """How this recipe turns slots into Encoded."""
    options, geometry, seed = loaded.recipe.data, loaded.variant.geometry, loaded.recipe.train.seed
    rules = rules_by_source(options)
    return Encoding(
        encoder=encoder,
        load=lambda slot: load_clip(slot, rules[slot.record.source], geometry, seed=seed),
        load_mask=lambda slot: load_mask(slot, rules[slot.record.source], geometry, seed=seed),
        transform=lambda slot: transform_of(slot, rules[slot.record.source], geometry, seed=seed),
        dtype=options.encoded_dtype,
        device=device,
        seed=seed,
        conditions=loaded.variant.conditions,
        geometry=geometry,
        text_length=loaded.variant.text_length,
        show=options.show,
    )


def cache_of(loaded: Loaded, *, share: Share = WHOLE) -> Cache:
    """The cache that the recipe names."""
    folder = loaded.recipe.data.cache_dir
    by = f"{loaded.name} (share {share})" if share.total > 1 else loaded.name
    return Cache(loaded.folder / folder if folder else loaded.run_folder.parent / "cache", by=by)


def words_of(loaded: Loaded) -> list[str]:
    """What a run says beside its clips' captions: prompts, the negative ones of previews and method, and nothing."""
    options = loaded.recipe.preview
    return [*options.prompts, options.negative_prompt, loaded.recipe.method.negative_prompt, ""]


def slots_of(loaded: Loaded, plan: Plan) -> list[Slot]:
    """All that a run wants of its cache."""
    return [*plan.slots, *plan.held_out, *word_slots(words_of(loaded))]


def fill(loaded: Loaded, plan: Plan, encoding: Encoding, *, verify: bool) -> tuple[FillReport, Plan]:
    """Encode what is missing; slots that cannot be encoded leave the plan (only under data.on_bad = "skip")."""
    report = fill_share(loaded, plan, encoding, verify=verify)
    lost = {slot.name: reason for slot, reason in report.left_out}
    return report, plan.without(lost) if lost else plan


def fill_share(
    loaded: Loaded,
    plan: Plan,
    encoding: Encoding,
    *,
    verify: bool,
    share: Share = WHOLE,
    maker: Maker | None = None,
) -> FillReport:
    """Encode what is missing of a share, here or by `maker`, once it is told how much disk that takes."""
    cache = cache_of(loaded, share=share)
    todo = cache.look(slots_of(loaded, plan), encoding, share=share, verify=verify)
    if todo.num_to_make:
        console.print(f"cache: {todo.disk.told()}")
    return cache.make(todo, encoding, on_bad=loaded.recipe.data.on_bad, maker=maker)


def reader_of(loaded: Loaded, encoding: Encoding) -> Callable[[Slot], Encoded]:
    """What hands out Encoded in the loop: the cache's shelf, or the encoder itself."""
    if loaded.recipe.data.cache == "off":
        return Live(encoding).read
    return cache_of(loaded).shelf(encoding.keys).read


def tell_fill(report: FillReport, *, share: Share = WHOLE) -> None:
    """One line about what a fill did."""
    parts = [f"{report.made} made", f"{report.found} found", f"{report.rebuilt} rebuilt"]
    part = f" (share {share})" if share.total > 1 else ""
    console.print(f"cache{part}: {', '.join(parts)}, {in_words(report.bytes)} written")
