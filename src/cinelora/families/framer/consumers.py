"""Owns which programs read Framer's adapters and how: peft alone, a folder for each part."""

from cinelora.lora.consumers import FOLDER, PEFT_PAIRS, Consumers, PeftRule, Rule


def plain(module: str) -> str | None:
    """Without the part; keys of a lone file do not say it, and are taken for the UNet's."""
    part, _, name = module.partition(".")
    return name if part == "unet" else None


CONSUMERS = Consumers(
    programs=(
        PeftRule("Framer's scripts, by PeftModel.from_pretrained", (FOLDER,)),
        Rule(
            "peft: set_peft_model_state_dict",
            ("peft",),
            plain,
            dotted=("base_model.model.",),
            pairs=PEFT_PAIRS,
            alpha=False,
        ),
    ),
    aliases={"original": FOLDER},
)
