"""The recipes: each is a config that `plan` accepts, the paper's say what the paper says, and the tables are theirs."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.recipes.bases import BASES
from benchmarks.recipes.planning import FOLDER, Place, planned, recipes
from benchmarks.recipes.table import PAGE, write_tables
from benchmarks.results import RESULTS
from quatrain.cli.main import app

RECIPES = recipes()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned(name: str):
    row = planned(name, RECIPES[name], Place("a100-80gb"))
    assert "refused" not in row
    assert 0 < row["needed_bytes"] <= row["budget_bytes"] and row["hours"] > 0
    assert sum(row["keeps"].values()) == BASES[row["model"]]["num_hidden_layers"]
    assert row["tokens_a_step"] in (16 * 512, 8 * 2048)


def test_what_does_not_fit_is_a_row_with_its_reason():
    row = planned("llama-70b", RECIPES["llama-70b"], Place("rtx3060-12gb", "1GB"))
    assert "doesn't fit into 1.0 GB" in row["refused"] and "hours" not in row


@pytest.mark.parametrize(
    ("size", "rate", "dropout"), [("7b", 2e-4, 0.1), ("13b", 2e-4, 0.1), ("33b", 1e-4, 0.05), ("65b", 1e-4, 0.05)]
)
def test_the_papers_recipe_is_the_papers(size: str, rate: float, dropout: float):
    """QLoRA (arXiv 2305.14314), table 9 and section 4."""
    recipe = RECIPES[f"guanaco-{size}"]
    lora = recipe.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (64, 16, dropout, "all-linear")
    assert (recipe.quantization, recipe.double_quant, recipe.max_grad_norm) == ("nf4", True, 0.3)
    assert (recipe.learning_rate, recipe.lr_scheduler_type, recipe.warmup_ratio) == (rate, "constant", 0.0)
    assert recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps == 16
    assert (recipe.max_steps, recipe.packing, recipe.adam_beta2) == (1875, False, 0.999)


def test_at_home_a_recipe_and_a_base_are_all_that_plan_needs(tmp_path: Path):
    base = BASES["huggyllama/llama-7b"]
    (tmp_path / "config.json").write_text(json.dumps(base))
    asked = ["plan", str(FOLDER / "guanaco-7b.yaml"), f"model={tmp_path}", "--gpu", "rtx4090"]
    shown = CliRunner().invoke(app, [*asked, "--host-memory", "42GB"])
    assert shown.exit_code == 0, shown.output
    assert "rtx4090: " in shown.output and "a step" in shown.output


def test_the_tables_are_those_of_the_result_file(tmp_path: Path):
    page = tmp_path / "README.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    result = json.loads((RESULTS / "recipes.json").read_text(encoding="utf-8"))
    write_tables(result, page)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert {row["recipe"] for row in result["rows"]} == set(RECIPES)
    assert all(f"[{name}]({name}.yaml)" in page.read_text(encoding="utf-8") for name in RECIPES)
