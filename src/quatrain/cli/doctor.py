"""`quatrain doctor`."""

import typer


def doctor() -> None:
    """Show what this machine can do, and what is missing with its remedy."""
    from rich.console import Console
    from rich.table import Table

    from quatrain.device import describe

    facts = describe()
    table = Table(box=None, pad_edge=False, show_header=False)
    for fact in facts:
        mark = {True: "[green]ok[/green]", False: "[red]no[/red]", None: ""}[fact.ok]
        table.add_row(mark, fact.name, fact.value)
        if fact.remedy:
            table.add_row("", "", f"[yellow]→ {fact.remedy}[/yellow]")
    Console(highlight=False).print(table)
    if any(fact.ok is False for fact in facts):
        raise typer.Exit(1)
