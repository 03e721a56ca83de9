"""Owns the verb `families`: what can be trained."""

from cinelora.base.log import open_console
from cinelora.families import registry
from cinelora.report.table import families_table


def families() -> None:
    """Print the table of families and variants."""
    console = open_console()
    console.print(families_table(registry.FAMILIES, hidden=registry.HIDDEN))
    for family in registry.FAMILIES.values():
        if family.name not in registry.HIDDEN:
            written = f"{', '.join(family.adapter_files)}; {' and '.join(family.default_files)} unless told"
            console.print(f"adapter files of {family.name} (lora.files): {written}")
    console.print("next: cinelora init FAMILY/VARIANT -o my.toml")
