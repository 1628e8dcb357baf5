"""The page as a browser parses it: whole, self-contained, and deaf to what strangers wrote into the run."""

import base64
import hashlib
import math
import re

import pytest
import yaml

from quatrain.errors import CheckpointError
from quatrain.report import write_report
from quatrain.runlog import (
    AdapterSaved,
    Evaluated,
    Event,
    EventWriter,
    Noted,
    PlanChecked,
    Planned,
    RunFinished,
    RunFolder,
    RunStarted,
    Sampled,
)
from tests.events import step
from tests.report.pages import Page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7*7 }}"
LONE_SURROGATE = "\ud800"
SECTIONS = {"curves", "answers", "evaluation", "notes", "settings"}
DRAWINGS = ("loss", "rate", "norm", "speed", "memory", "plan", "map")


def started(text: str = "org/base", total: int = 20) -> RunStarted:
    return RunStarted(
        base=text,
        device=text,
        total_steps=total,
        trainable_parameters=4_884_480,
        total_parameters=134_515_008,
        base_bytes=126 * 2**20,
        compute_dtype=text,
        rows=600,
        tokens=98_000,
        supervised_tokens=31_000,
        versions={text: text},
    )


def page_of(tmp_path, events: list[Event], config: object = None) -> tuple[str, Page]:
    folder = RunFolder(tmp_path)
    if config is not None:
        folder.config.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    with EventWriter(folder.events) as writer:
        for event in events:
            writer.write(event)
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def whole_run(text: str = "plain") -> list[Event]:
    """A run with all that a page can show; `text` stands wherever a stranger's words may."""
    parts = {"4-bit codes": 2**30, text: 2**29, "adapters": 2**28}
    plan = Planned(budget=2**33, parts=parts, peak=2**31, seconds=0.5, exact=True, notes=[text])
    checked = PlanChecked(
        step=20, predicted_peak=2**31, measured_peak=2**30, predicted_seconds=0.5, measured_seconds=0.4
    )
    norms = {f"model.layers.{i}.{kind}": 1.0 + i for i in range(12) for kind in ("self_attn.q_proj", text)}
    return [
        started(text),
        plan,
        Noted(level="warning", message=text),
        Evaluated(step=0, split=text, loss=2.5, perplexity=12.2, metrics={text + "exact_match": 0.0}, seconds=1.0),
        *(Sampled(step=0, prompt=f"{text}{i}", answer=text, reference="gold", when="before") for i in range(5)),
        *(step(i, loss=2.5 / i) for i in range(1, 21)),
        Evaluated(step=20, split=text, loss=0.2, perplexity=1.2, metrics={text + "exact_match": 0.87}, seconds=1.0),
        *(Sampled(step=20, prompt=f"{text}{i}", answer="gold", reference="gold", when="after") for i in range(5)),
        checked,
        AdapterSaved(step=20, path="adapter", norms=norms | {text: 3.0}),
        RunFinished(step=20, status="completed", seconds=10.0, tokens=10_240, peak_memory=2**31),
    ]


def test_a_whole_run_has_every_section_and_chart_and_headline(tmp_path):
    config = {"data": {"path": "rows/train.jsonl"}, "lora": {"r": 16, "target_modules": ["q_proj", "v_proj"]}}
    _, page = page_of(tmp_path, whole_run(), config)
    assert set(page.attributes("id")) >= SECTIONS | {f"{name}-title" for name in DRAWINGS}
    shown = page.shown()
    for expected in (
        "LoRA r = 16 on q_proj, v_proj",
        "train.jsonl",
        "0.0 % → 87.0 %",
        "completed",
        "2 more",
        "lora.r",
        "500 ms planned, 400 ms measured",
    ):
        assert expected in shown
    assert shown.count("matches the reference") == 5
    described = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(described) == 6 == len(page.texts_of("desc")) == len(page.texts_of("title")) - 1
    assert all(set((a["aria-labelledby"] or "").split()) <= set(page.attributes("id")) for a in described)
    assert len(page.attributes("id")) == len(set(page.attributes("id")))


def test_nothing_is_fetched_and_only_our_script_may_run(tmp_path):
    html, page = page_of(tmp_path, whole_run())
    assert not re.search(r"(https?:)?//\w", html), "no address of another machine"
    assert "@import" not in html and "url(" not in html
    assert page.attributes("src") == [] and page.attributes("href") == ["data:,"]
    (policy,) = (a["content"] or "" for t, a in page.tags if t == "meta" and "http-equiv" in a)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy


def test_hostile_strings_stay_strings(tmp_path):
    config = {"data": {"path": EVIL}, EVIL: EVIL, "lora": {"r": EVIL, "target_modules": [EVIL]}, "quantization": "nf4"}
    _, page = page_of(tmp_path, whole_run(EVIL + LONE_SURROGATE), config)
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert sorted(a.get("type") or "" for a in scripts) == ["", *["application/json"] * 6]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert page.shown().count(EVIL) > 20


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "No step has been finished yet"),
        ([started()], "unfinished"),
        ([started(), step(1)], "1 of 20 steps"),
        ([started(), step(1, math.nan)], "not a number"),
        ([started(), *(step(i, math.nan if i > 5 else 1.0) for i in range(1, 9))], "wasn't a finite number"),
        ([started(), *(step(i, math.inf) for i in range(1, 4))], "infinite"),
        ([Evaluated(step=0, split="eval", metrics={"exact_match": 0.5}, seconds=1.0)], "50.0 %"),
        ([Sampled(step=0, prompt="hi", answer=" ", when="before")], "empty answer"),
    ],
)
def test_runs_that_just_began_or_went_wrong_have_a_page_too(tmp_path, events, expected):
    _, page = page_of(tmp_path, events)
    assert expected in page.shown()
    assert set(page.attributes("id")) >= SECTIONS


def test_a_long_run_stays_a_small_page(tmp_path):
    html, _ = page_of(tmp_path, [started(), *(step(i, 1 + math.sin(i)) for i in range(1, 8001))])
    assert len(html) < 500_000


def test_writing_again_replaces_the_page_and_leaves_nothing_aside(tmp_path):
    page_of(tmp_path, [started()])
    html, _ = page_of(tmp_path, [step(1)])
    assert "1 of 20 steps" in html
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "report.html"]


def test_a_folder_without_a_run_is_said_plainly(tmp_path):
    with pytest.raises(CheckpointError, match="isn't there"):
        write_report(RunFolder(tmp_path))
    RunFolder(tmp_path).config.write_text("a: [")
    with pytest.raises(CheckpointError, match="must be YAML"):
        write_report(RunFolder(tmp_path))
