"""lm-evaluation-harness through our model: its figures are our own, and those of its own wrapper."""

from typing import Any

import pytest
import torch

from quatrain.errors import DataError
from quatrain.evaluation import read_evaluation
from quatrain.evaluation.tasks import Harness
from quatrain.models import load_model
from tests.evaluation.tasks.conftest import measured

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'quatrain[eval]'")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Data sets that the harness reads are cached away from the user's."""
    from datasets import config

    before = config.HF_DATASETS_CACHE
    config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    config.HF_DATASETS_CACHE = before


def local_task(path, **changes: Any) -> dict[str, Any]:
    """A task of the harness over local rows, asked as `choices` asks them."""
    return {
        "task": "local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        **changes,
    }


def by_their_own_wrapper(loaded, task: dict[str, Any]) -> dict[str, Any]:
    """The harness' figures with its `HFLM` around the same model, one row at a time."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = loaded
    wrapped: Any = HFLM
    run: Any = simple_evaluate
    theirs = wrapped(pretrained=model, tokenizer=tokenizer, batch_size=1)
    return run(model=theirs, tasks=[task], bootstrap_iters=0, task_manager=TaskManager(include_defaults=False))


def test_choices_are_our_own_and_theirs(loaded, quiz, tmp_path):
    task = local_task(quiz)
    ours, through = measured(loaded, [str(quiz), Harness(task=task)], folder=tmp_path).figures
    assert [a.scores for a in ours.answers.values()] == [a.scores for a in through.answers.values()]
    theirs = by_their_own_wrapper(loaded, task)["results"]["local"]
    assert {name: interval.mean for name, interval in through.metrics.items()} == {
        "acc": theirs["acc,none"],
        "acc_norm": theirs["acc_norm,none"],
    }


def test_a_head_is_what_it_was(tiny_llama_dir, quiz, tmp_path):
    options: Any = {"compute_dtype": "float32", "device": "cpu"}
    in_four_bits = load_model(tiny_llama_dir, quantize_head=True, quantize_embeddings=True, **options)
    trained = load_model(tiny_llama_dir, quantization=None, **options)
    head = torch.nn.Parameter(torch.randn_like(trained[0].lm_head.weight))
    trained[0].lm_head.weight = head
    for loaded in (in_four_bits, trained):
        ours, through = measured(loaded, [str(quiz), Harness(task=local_task(quiz))], tmp_path).figures
        assert [a.scores for a in ours.answers.values()] == [a.scores for a in through.answers.values()]
    assert trained[0].lm_head.weight is head and "tie_weights" not in vars(trained[0])


def test_likelihoods_are_those_of_their_wrapper(loaded, subject, quiz):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from quatrain.evaluation.tasks.harness_model import HarnessModel

    model, tokenizer = loaded
    pairs = [
        ("how many", " apples are there"),
        ("", "the quick brown fox"),
        ("the lazy ", "dog"),
        *(("user", end) for end in "ABC"),
    ]
    requests: Any = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    texts = ["the quick brown fox jumps over the lazy dog" * 40, "how many apples"]
    rolling: Any = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    wrapped: Any = HFLM
    theirs = wrapped(pretrained=model, tokenizer=tokenizer, max_length=subject.context - 1)
    ours: Any = HarnessModel(subject)  # pyright: ignore[reportAbstractUsage]
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-2)
    with pytest.raises(DataError, match="a continuation must have 1 to 255 tokens"):
        ours._loglikelihood_tokens([(("", ""), [1], [])])


def test_what_it_writes_and_what_isnt_a_mean(loaded, quiz, tmp_path):
    writing = local_task(
        quiz,
        task="writes",
        output_type="generate_until",
        doc_to_target="{{choices[answer]}}",
        doc_to_choice=None,
        metric_list=[{"metric": "exact_match"}],
        generation_kwargs={"until": ["\n"], "max_gen_toks": 3},
    )
    reading = local_task(
        quiz,
        task="reads",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{question}}",
        doc_to_choice=None,
        metric_list=[{"metric": "bits_per_byte"}],
    )
    tasks = [Harness(task=writing, max_rows=2), Harness(task=reading)]
    written, read = measured(loaded, tasks, tmp_path).figures
    assert len(written.answers) == 2 and list(written.metrics) == ["exact_match"] and written.answers[0].reference
    theirs = by_their_own_wrapper(loaded, reading)["results"]["reads"]
    assert not read.metrics and read.closing.figures["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"])


def test_a_stopped_call_asks_only_what_is_left(loaded, quiz, tmp_path, monkeypatch):
    from quatrain.evaluation import likelihood

    asked, answers_of = [], likelihood._answers

    def counted(chosen, chunks):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(len(chosen))
        yield from answers_of(chosen, chunks)

    task = Harness(task=local_task(quiz))
    monkeypatch.setattr(likelihood, "_TOKENS", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(likelihood, "_answers", counted)
        measured(loaded, [task], folder=tmp_path)
    monkeypatch.setattr(likelihood, "_answers", lambda *given: (asked.append(len(given[0])), answers_of(*given))[1])
    result = measured(loaded, [task], folder=tmp_path)
    assert sum(asked) == sum(2 + n % 3 for n in range(6)), "every choice is computed once"
    assert not list(tmp_path.rglob("*.db")) and read_evaluation(result.folder) == result


def test_a_task_that_cant_be_loaded(loaded, tmp_path):
    with pytest.raises(DataError, match=r"can't load 'local'"):
        measured(loaded, [Harness(task=local_task(tmp_path / "nothing.jsonl"))], folder=tmp_path)
    with pytest.raises(DataError, match=r"can't load 'such_task'"):
        measured(loaded, [Harness(task="no/such_task.yaml")], folder=tmp_path)
