"""`quatrain judge` as a person runs it: from questions to a ranking, stopped and gone on with."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quatrain.evaluation.judging.row_log import read_log
from tests.evaluation.judging.chat_server import KEY, ChatServer, Request, serving

HEAD = "model_a,model_b,item,verdict\n"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    with serving() as server:
        server.say = longer_wins
        yield server


def longer_wins(prompt: str) -> str:
    """A judge that prefers the longer answer, and ties equal ones."""
    one, other = (prompt.split(f"<answer_{x}>\n")[1].split(f"\n</answer_{x}>")[0] for x in "ab")
    return f"Counted.\n\nVerdict: {'C' if len(one) == len(other) else 'AB'[len(one) < len(other)]}"


@pytest.fixture
def folder(tmp_path: Path, quatrain) -> Path:
    """A comparison of three models, by files, on four questions."""
    questions = [{"question_id": i, "text": f"What is {i}?"} for i in range(4)]
    write(tmp_path / "questions.jsonl", questions)
    for name, length in (("short", 1), ("middle", 5), ("long", 9)):
        write(tmp_path / f"{name}.jsonl", [{"question_id": i, "text": "x" * (length + i)} for i in range(4)])
    names = [tmp_path / f"{name}.jsonl" for name in ("short", "middle", "long")]
    code, _, err = quatrain("judge", "answer", tmp_path / "out", *names, "--questions", tmp_path / "questions.jsonl")
    assert code == 0 and "long: 4 of 4 questions are answered in" in err
    return tmp_path / "out"


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def comparing(folder: Path, server: ChatServer, *more: object) -> list[object]:
    asked = ["judge", "compare", folder, "--judge", "counter=org/counter", "--endpoint", server.address]
    return [*asked, "--api-key-env", "JUDGE_KEY", "--timeout", "5", *more]


def test_from_answers_to_a_ranking(quatrain, folder: Path, endpoint: ChatServer) -> None:
    code, out, err = quatrain(*comparing(folder, endpoint, "--input-price", 2, "--output-price", 10))
    assert code == 0, err
    assert "24 verdicts to ask for, 0 are there: 3 models, 4 questions, both orders; about" in err
    assert "at most 24,576 of replies; at most 0.25 by your prices" in err
    assert "24 verdicts: 12 for the first answer, 12 for the second, 0 ties, 0 unparsed" in out
    assert "2,400 tokens of prompts and 168 of replies in this call, 0.01 by your prices" in out
    assert len(set(endpoint.prompts)) == 24 and endpoint.bodies[0]["model"] == "org/counter"
    assert KEY not in "".join(path.read_text() for path in folder.rglob("*") if path.is_file()) + out + err

    code, out, err = quatrain("judge", "rank", folder, "--orders", 50, "--samples", 50)
    assert code == 0, err
    assert out.index("long") < out.index("middle") < out.index("short")
    assert "both orders of a pair agree in 100.0% of 12 pairs" in out
    assert "the answer that stood first got 50.0% of 24 decided verdicts" in out
    assert quatrain("report", folder / "ranking-counter.json")[0] == 0, "a ranking has a page"
    ranking = json.loads((folder / "ranking-counter.json").read_text())
    assert [standing["system"] for standing in ranking["standings"]] == ["long", "middle", "short"]


def test_nothing_is_asked_twice(quatrain, folder: Path, endpoint: ChatServer) -> None:
    endpoint.misbehave = lambda request, number: number > 9 and request.fail(401, "expired")
    code, _, err = quatrain(*comparing(folder, endpoint, "--concurrency", 1))
    assert code == 1 and "check the key in JUDGE_KEY" in err and KEY not in err
    first, endpoint.misbehave = endpoint.prompts[:10], lambda request, number: False
    endpoint.bodies.clear()
    code, out, err = quatrain(*comparing(folder, endpoint))
    assert code == 0 and "14 verdicts to ask for, 10 are there" in err and "24 verdicts: 12 for" in out
    assert len(endpoint.prompts) == 14 and not set(first) & set(endpoint.prompts)
    code, out, err = quatrain(*comparing(folder, endpoint))
    assert code == 0 and "0 verdicts to ask for, 24 are there" in err and len(endpoint.prompts) == 14


def test_a_pair_that_fails_is_asked_again_by_the_next_call(quatrain, folder: Path, endpoint: ChatServer) -> None:
    endpoint.misbehave = lambda request, number: number == 3 and request.fail(500, "hiccup")
    code, out, err = quatrain(*comparing(folder, endpoint, "--attempts", 1, "--concurrency", 1))
    assert code == 1 and "23 verdicts" in out
    assert "1 pairs are left without a verdict (Error code: 500 - hiccup); the same command asks for them again" in err
    assert quatrain(*comparing(folder, endpoint))[0] == 0 and len(endpoint.bodies) == 25


def test_replies_without_a_verdict_are_shown(quatrain, folder: Path, endpoint: ChatServer) -> None:
    endpoint.say = lambda prompt: "I like both."
    code, out, _ = quatrain(*comparing(folder, endpoint))
    assert code == 0 and "24 unparsed" in out and "many replies hold no verdict; one of them: I like both." in out
    (folder / "verdicts" / "other.jsonl").write_text('{"model_a": "x", "model_b": "y", "item": 1, "verdict": "a"}\n')
    code, out, err = quatrain("judge", "rank", folder, "--orders", 20)
    assert code == 1 and "error: counter: there is nothing to rank: of 24 verdicts none could be read" in err
    assert "by other" in out, "a judge who failed doesn't keep the next from being ranked"


def test_what_would_be_asked_can_be_seen_first(quatrain, folder: Path, endpoint: ChatServer) -> None:
    code, out, _ = quatrain(*comparing(folder, endpoint, "--dry-run", "--against", "long"))
    assert code == 0 and "16 verdicts to ask for" in out and not endpoint.bodies
    assert not (folder / "verdicts").exists()


class Terminal(io.StringIO):
    """A person at the keyboard."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_asked_before_money_is_spent(quatrain, folder: Path, endpoint: ChatServer) -> None:
    code, out, _ = quatrain(*comparing(folder, endpoint), stdin=Terminal("n\n"))
    assert code == 1 and "Ask the endpoint?" in out and not endpoint.bodies
    assert quatrain(*comparing(folder, endpoint), stdin=Terminal("y\n"))[0] == 0 and len(endpoint.bodies) == 24
    assert "Ask" not in quatrain(*comparing(folder, endpoint), stdin=Terminal(""))[1], "nothing is left to ask"


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--against", "nobody"], 2, "there are answers of long, middle, short, and none of 'nobody'"),
        (["--api-key-env", "NO_SUCH_KEY"], 2, "the environment variable NO_SUCH_KEY must hold the key"),
        (["--request", "max_tokens"], 2, "`--request` looks like top_p=0.9"),
        (["--judge", "llama3:8b"], 2, "a name becomes a file's"),
    ],
)
def test_wrong_settings_ask_nothing(quatrain, folder: Path, endpoint: ChatServer, more, code: int, said: str) -> None:
    found, _, err = quatrain(*comparing(folder, endpoint, *more))
    assert (found, err.count("\n")) == (code, 1) and said in err and not endpoint.bodies


def test_another_judge_in_the_same_name_is_refused(quatrain, folder: Path, endpoint: ChatServer) -> None:
    assert quatrain(*comparing(folder, endpoint))[0] == 0
    code, _, err = quatrain(*comparing(folder, endpoint, "--temperature", 1))
    assert code == 2 and "were made with other settings (request was" in err


def test_verdicts_on_answers_that_have_changed_are_refused(quatrain, folder: Path, endpoint: ChatServer) -> None:
    assert quatrain(*comparing(folder, endpoint))[0] == 0
    answers = folder / "answers" / "short.jsonl"
    answers.write_text(answers.read_text().replace('"x"', '"better"'))
    code, _, err = quatrain(*comparing(folder, endpoint))
    assert code == 1 and "aren't those that were judged. Name the judge anew" in err and len(endpoint.bodies) == 24


@pytest.mark.faults
def test_a_killed_comparison_goes_on(folder: Path, endpoint: ChatServer, quatrain) -> None:
    """A process that dies in the middle has every reply that came in the log, and none is asked for again."""

    def slow(request: Request, number: int) -> bool:
        time.sleep(0.02)
        return number >= 8 and request.hang()

    endpoint.misbehave = slow
    main = "from quatrain.cli import main; main()"
    command = [sys.executable, "-c", main, *map(str, comparing(folder, endpoint, "--concurrency", 2))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = folder / "verdicts" / "counter.jsonl"
    try:
        while not log.exists() or len(read_log(log)) < 8:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    answered = endpoint.prompts[:8]
    endpoint.misbehave = lambda request, number: False
    endpoint.bodies.clear()
    code, out, err = quatrain(*comparing(folder, endpoint))
    assert code == 0 and "24 verdicts: 12 for" in out, err
    assert len(endpoint.prompts) == 16 and not set(answered) & set(endpoint.prompts)


def test_an_interrupt_says_what_is_kept(quatrain, folder: Path, endpoint: ChatServer, monkeypatch) -> None:
    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quatrain.evaluation.judging.comparing.compare", interrupted)
    code, _, err = quatrain(*comparing(folder, endpoint))
    assert code == 130 and "interrupted; the verdicts so far are kept, and the same command goes on from there" in err


def test_ranking_files_and_comparing_judges(quatrain, tmp_path: Path) -> None:
    said = {True: "b", False: "a"}
    rows = [f"{a},{b},{i},{said[a < b] if i else 'tie'}\n" for i in range(5) for a in "xyz" for b in "xyz" if a != b]
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    one.write_text(HEAD + "".join(rows))
    other.write_text(HEAD + "".join(rows[:-1]))
    result = tmp_path / "ranking.json"
    code, out, err = quatrain("judge", "rank", one, "--both-orders", "merged", "--orders", 20, "--out", result)
    assert code == 0 and "15 matches (one for both orders of a pair) from 30 verdicts on 5 items" in out, err
    assert "note: z won every verdict" not in out and "z has 10 verdicts only" in out
    assert json.loads(result.read_text())["both_orders"] == "merged"
    code, out, err = quatrain("judge", "agree", one, other, "--orders", 20, "--out", result)
    assert code == 0 and "one and other" in out and "Fleiss' κ of all judges on 14 examples: 1.000" in out, err
    assert json.loads(result.read_text())["pairs"][0]["kendall_tau"] == 1
    one.write_text(HEAD + "[/red],\x1b[2Jy,1,a\n")
    code, out, err = quatrain("judge", "rank", one, "--orders", 2)
    assert code == 0 and "[/red]" in out and "\x1b[2J" not in out, err
    for command in (["agree", one, one], ["rank", one, "--judge", "nobody"], ["rank", one, "--both-orders", "x"]):
        assert quatrain("judge", *command)[0] == 2
    assert quatrain("judge", "rank", tmp_path / "none.csv")[0] == 1


def test_models_answer_and_judge(quatrain, tmp_path: Path, tiny_llama_dir: Path) -> None:
    """Random weights write garbage: it is kept, counted, and never taken for a verdict."""
    questions = write(tmp_path / "q.jsonl", [{"asked": f"{'how many ' * i}apples?"} for i in range(5)])
    answers = write(tmp_path / "fixed.jsonl", [{"answer": "12"}] * 3)
    folder, device = tmp_path / "out", ("--device", "cpu")
    asked = ["judge", "answer", folder, f"tiny={tiny_llama_dir}", answers, "--max-new-tokens", 4, *device]
    first = ["--questions", questions, "--field", "text=asked"]
    code, _, err = quatrain(*asked, *first, "--temperature", 1, "--batch-size", 2)
    assert code == 0 and "fixed: 3 of 5 questions are answered in" in err
    log = folder / "answers" / "tiny.jsonl"
    said = sorted(log.read_text().splitlines())
    log.write_text("".join(line + "\n" for line in said[:2]) + said[2][:5])
    assert quatrain(*asked, "--temperature", 1, "--batch-size", 2)[0] == 0
    assert sorted(log.read_text().splitlines()) == said, "what is drawn doesn't depend on where it was stopped"
    code, _, err = quatrain(*asked, "--temperature", 1, "--batch-size", 2)
    assert code == 0 and "tiny: all 5 questions are answered" in err
    code, _, err = quatrain(*asked)
    assert code == 2 and "temperature" in err

    judging = ["judge", "compare", folder, "--judge", f"self={tiny_llama_dir}", "--max-tokens", 4, *device]
    code, out, err = quatrain(*judging, "--verdicts", "written")
    assert code == 0 and "6 verdicts: 0 for the first answer, 0 for the second, 0 ties, 6 unparsed" in out, err
    code, out, err = quatrain(*judging[:4], f"likely={tiny_llama_dir}", *device)
    assert code == 0 and "6 verdicts: " in out and ", 0 unparsed" in out, err
    code, out, err = quatrain(*judging, "--verdicts", "guessed")
    assert code == 2 and "verdicts" in err
