"""Owns what a base's own scheduler_config.json says of the noise that the base was trained with.

In: a base in diffusers' folders. Out: options of [noise] by name, so that a recipe can be compared with them.
"""

from typing import Any

from cinelora.base.errors import Problem, WeightsError
from cinelora.nets.files import read_json
from cinelora.nets.weights import Base

_PREDICTIONS = {"v_prediction": "v", "epsilon": "eps", "sample": "x0"}
_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear"}


def stated_noise(base: Base) -> dict[str, Any]:
    """Options of [noise] that the base states; {} where it has no scheduler folder, or a drawn base.

    Of a flow that is its kind alone: published configs state the shift of sampling. Raises WeightsError where the file
    is damaged.
    """
    config, where = _config(base)
    if str(config.get("_class_name", "")).startswith("FlowMatch"):
        return {"kind": "flow"}
    told: dict[str, Any] = {}
    spread, prediction = str(config.get("beta_schedule")), str(config.get("prediction_type"))
    if spread in _BETAS and config.get("trained_betas") is None:
        told["betas"] = _BETAS[spread]
        told |= {name: _number(config, name, where) for name in ("beta_start", "beta_end") if name in config}
    if prediction in _PREDICTIONS:
        told["prediction"] = _PREDICTIONS[prediction]
    if "rescale_betas_zero_snr" in config:
        told["zero_terminal_snr"] = bool(config["rescale_betas_zero_snr"])
    return told


def contradictions(stated: dict[str, Any], noise: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where a recipe's [noise] is another process than a base's: {option: (the base's, the recipe's)}.

    Learned variances (`sigma`) go with predicted noise, whatever noise.prediction says.
    """
    if stated.get("kind") == "flow" or noise["kind"] == "flow":
        kind = stated.get("kind", "ddpm" if stated else noise["kind"])
        return {} if kind == noise["kind"] else {"kind": (kind, noise["kind"])}
    own = {**noise, "prediction": "eps"} if noise["kind"] == "sigma" else noise
    return {name: (value, own[name]) for name, value in stated.items() if own[name] != value}


def _number(config: dict[str, Any], name: str, where: str) -> float:
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        found, do = f"{name} {value!r}", "fetch it anew"
        raise WeightsError(
            Problem("a file of the base is damaged", found=found, allowed="a number", where=where, do=do)
        )
    return float(value)


def _config(base: Base) -> tuple[dict[str, Any], str]:
    """The scheduler's table and where it stands; an empty one where the base has none."""
    if base.is_random:
        return {}, ""
    try:
        file = base.folder("scheduler") / "scheduler_config.json"
    except WeightsError:
        return {}, ""  # a base need not have one
    return (read_json(file) if file.is_file() else {}), str(file)
