"""The run's numbers as the terminal prints them."""

from dataclasses import replace

from quatrain.report.summary import Change, RunSummary

SUMMARY = RunSummary(
    base="org/small-model", data="rows.jsonl", quantization="nf4", adapter="LoRA r = 16 on all-linear", device="CPU",
    status="completed", steps=113, total_steps=113, epochs=1.0, seconds=246.0, tokens=54211, tokens_per_second=450.0,
    first_loss=1.3, final_loss=0.01, peak_memory=2 << 30, trainable_parameters=4_884_480,
    total_parameters=134_515_008, base_bytes=106 << 20,
    changes=[Change("task", "json_match", 0.0, 0.93), Change("held-out", "loss", None, 1.25)],
)  # fmt: skip


def test_the_text_has_every_fact_and_a_row_for_each_change():
    text = str(SUMMARY)
    for words in ("small-model", "106 MiB", "nf4", "r = 16", "54.2k tokens", "completed, step 113 of 113", "2.00 GiB"):
        assert words in text
    *_, head, task, loss = text.splitlines()
    assert head.split() == ["before", "after"]
    assert task.split() == ["task", "json_match", "0.0", "%", "93.0", "%"]
    assert loss.split() == ["held-out", "loss", "–", "1.25"]


def test_without_evaluations_there_is_no_table():
    assert "before" not in str(replace(SUMMARY, changes=[]))
