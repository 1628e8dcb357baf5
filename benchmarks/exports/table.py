"""The result file as the tables of the docs."""

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """Distances to base + adapter, and tokens that agree."""
    return "\n\n".join([_distances(result["forms"]), _continuations(result)])


def _distances(forms: dict[str, Any]) -> str:
    trained = next(iter(forms.values()))
    rows = [("base + adapter", {"loss": trained["trained_loss"]}, None)]
    for name, form in forms.items():
        rows.append((name, form["written"], form.get("survival")))
        if name == "safetensors" and "onto the original" in form:
            rows.append(("safetensors, onto the original", form["onto the original"], None))
    lines = [
        "| form | loss | KL (nats) | max \\|Δ logit\\| | same choice | of the change survives |",
        "|---|---|---|---|---|---|",
    ]
    for name, found, survival in rows:
        cells = [f"{found['loss']:.4f}", "", "", "", ""]
        if "kl" in found:
            cells[1:4] = f"{found['kl']:.1e}", f"{found['max_logit_difference']:.2f}", f"{found['same_choice']:.1%}"
        if survival:
            cells[4] = f"{survival['total']:.1%}, least {survival['least']:.1%} of a layer's"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _continuations(result: dict[str, Any]) -> str:
    lines = ["| form | loaded by | prompts continued alike | tokens alike |", "|---|---|---|---|"]
    lines += [
        f"| {c['form']} | {c['engine']} | {c['same_prompts']} of {result['prompts']} | {c['same']:.1%} |"
        for c in result["continuations"].values()
    ]
    return "\n".join(lines)
