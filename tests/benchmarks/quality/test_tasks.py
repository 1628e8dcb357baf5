"""Parts don't overlap, and everyone gets the same rows at the same step."""

import pytest

from benchmarks.quality.tasks import SPLITS, TASKS, samples_of, training_batches


@pytest.mark.parametrize("task", TASKS)
def test_parts_dont_overlap(task, texts, models):
    parts = [samples_of(task, split, texts[task], str(models / "tiny")) for split in SPLITS]
    told = [{tuple(sample.input_ids) for sample in part} for part in parts]
    assert all(map(len, parts)) and len(set.union(*told)) == sum(map(len, told)) == sum(map(len, parts))


def test_packed_and_padded_batches_hold_the_same_rows(texts, models):
    samples = samples_of("gsm8k", "train", texts["gsm8k"], str(models / "tiny"))
    packed, padded = (training_batches(samples, steps=9, rows=4, seed=3, packed=p) for p in (True, False))
    assert [b.num_supervised for b in packed] == [b.num_supervised for b in padded]
    assert [b.num_tokens for b in packed] == [b.num_tokens for b in padded]
    assert len({b.input_ids.shape for b in packed}) == 1
    other = training_batches(samples, steps=9, rows=4, seed=4, packed=True)
    assert any(
        (a.targets != b.targets).any() for a, b in zip(packed, other, strict=True) if a.targets.shape == b.targets.shape
    )
