"""Judges that are loaded here: likelihoods against transformers' logits, and garbage that stays garbage."""

import pytest
import torch

from quatrain.data import render_prompt
from quatrain.errors import ConfigError
from quatrain.evaluation.judging.judges import LikelihoodJudge, LocalConfig, Reply, WritingJudge, local_judge
from quatrain.models import load_model

PROMPTS = ["which is better?", "how many apples are there in the box? 12 + 7", "fox"]


@pytest.fixture(scope="module")
def loaded(tiny_llama_dir):
    return load_model(tiny_llama_dir, compute_dtype="float32", device="cpu")


def replies(judge, prompts: list[str]) -> list[Reply]:
    found: dict[int, Reply] = {}
    assert judge(prompts, found.__setitem__) == []
    return [found[number] for number in range(len(prompts))]


def test_the_likeliest_letter_is_the_verdict(loaded) -> None:
    model, tokenizer = loaded
    judged = replies(LikelihoodJudge(model, tokenizer), PROMPTS)
    for prompt, reply in zip(PROMPTS, judged, strict=True):
        ids = render_prompt([{"role": "user", "content": prompt}], tokenizer)
        written = [tokenizer(f"Verdict: {letter}", add_special_tokens=False)["input_ids"] for letter in "ABC"]
        *beginning, _ = written[0]
        with torch.inference_mode():
            log_probs = model(torch.tensor([[*ids, *beginning]])).logits[0, -1].float().log_softmax(-1)
        letters = [ids[-1] for ids in written]
        expected = log_probs[letters]
        assert reply.verdict == ("a", "b", "tie")[int(expected.argmax())]
        said = [float(part.split()[1]) for part in reply.text.removeprefix("log-probabilities: ").split(", ")]
        torch.testing.assert_close(torch.tensor(said), expected, atol=2e-3, rtol=0)


def test_letters_that_are_no_tokens_are_refused(loaded) -> None:
    model, _ = loaded

    def letter_by_letter(text: str, **settings: object) -> dict[str, list[int]]:
        return {"input_ids": [*map(ord, text), *([7] if text.endswith("C") else [])]}

    with pytest.raises(ConfigError, match="writes A, B and C as one token each"):
        LikelihoodJudge(model, letter_by_letter)


def test_what_is_written_is_read(loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    garbage = replies(WritingJudge(model, tokenizer, max_new_tokens=4, batch_size=2), PROMPTS)
    assert [reply.verdict for reply in garbage] == ["unparsed"] * 3 and all(reply.text for reply in garbage)
    said = {0: "Verdict: A", 1: "So:\nVerdict: C", 2: "Verdict"}
    monkeypatch.setattr("quatrain.evaluation.judging.judges.local.answer_batches", lambda *given, **how: [said])
    judged = replies(local_judge(LocalConfig("x", "written"), model, tokenizer), PROMPTS)
    assert [reply.verdict for reply in judged] == ["a", "tie", "unparsed"] and judged[0].prompt_tokens > 0


def test_settings_tell_judges_apart() -> None:
    assert LocalConfig("x").settings == {"kind": "likelihood", "model": "x", "quantization": None}
    assert LocalConfig("x", "written").settings["max_new_tokens"] == 1024
    with pytest.raises(ConfigError, match="verdicts"):
        LocalConfig("x", "guessed")  # pyright: ignore[reportArgumentType]
