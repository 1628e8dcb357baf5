"""Configs: files and settings that can't be meant."""

from functools import partial

from quatrain.errors import ConfigError
from tests.faults.case import Call, fault, recovers
from tests.faults.place import Place


def _training(at: Place, content: str | bytes) -> Call:
    return at.command("train", at.file("run.yaml", content))


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
for words, content, says in (
    ("that isn't YAML", "data: [", "is not YAML"),
    ("with a tab", "lora:\n\tr: 3\n", "is not YAML"),
    ("that is a list", "- data\n", "must hold `key: value` lines, found list"),
    ("that is empty", "", "must hold `key: value` lines, found NoneType"),
    ("that isn't UTF-8", b"data: \xff\n", "is not YAML: 'utf-8' codec can't decode byte 0xff"),
    ("in UTF-16", "data: x\n".encode("utf-16"), "is not YAML: 'utf-8' codec"),
    ("with a null byte", "data: \0\n", "is not YAML"),
    ("of two megabytes", "# " + "a" * 2**21, "it has more than 1,048,576 bytes"),
    ("with a key twice", "data: x\ndata: y\n", "the key 'data' occurs twice"),
    ("with a key twice inside", "data: x\nlora: {r: 1, r: 2}\n", "the key 'r' occurs twice"),
    ("that grows by its aliases", LAUGHS, "too many aliases"),
    ("that holds itself", "data: &a [*a]\n", "too many aliases"),
    ("nested 10,000 deep", "data: " + "[" * 10_000, "nested too deeply"),
    ("that makes a Python object", "data: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
    ("whose value isn't what its tag says", "data: x\nseed: !!bool maybe\n", "a value isn't what its tag says"),
    ("of two documents", "data: x\n---\ndata: y\n", "is not YAML"),
    ("with a key that is null", "data: x\nnull: 3\n", "Keys should be strings, found None"),
    ("with a key that is a list", "data: x\n? [a]\n: 3\n", "found unhashable key"),
):
    fault(f"a config {words}", ConfigError, says)(partial(_training, content=content))


def _setting(at: Place, setting: str) -> Call:
    return at.command("train", f"model={at.originals.model}", f"data={at.rows(name='good.jsonl')}", setting)


for setting, says in (
    ("learning_rat=1", "there is no setting `learning_rat`; did you mean `learning_rate`?"),
    ("r=16", "there is no setting `r`; did you mean `lora.r`?"),
    ("lora.rank=16", "there is no setting `lora.rank`; known are r, lora_alpha"),
    ("lora.r.x=1", "`lora.r`: Input should be a valid integer"),
    ("learning_rate=fast", "`learning_rate`: Input should be a valid number"),
    ("learning_rate=nan", "`learning_rate` must be a finite number, got nan"),
    ("learning_rate=inf", "`learning_rate` must be a finite number, got inf"),
    ("learning_rate=-1e-4", "`learning_rate` must be above 0"),
    ("max_steps=0", "`max_steps` must be a whole number of at least 1"),
    ("max_steps=1.5", "`max_steps`: Input should be a valid integer"),
    (f"max_steps={'9' * 5000}", "`max_steps`: "),
    ("max_length=1", "`max_length` must be a whole number of at least 2"),
    ("seed=-1", "`seed` must be a whole number of at least 0"),
    ("seed=18446744073709551616", "`seed` must be at most"),
    ("warmup_ratio=1", "`warmup_ratio` must be at least 0 and below 1"),
    ("packing=perhaps", "`packing`: Input should be a valid boolean"),
    ("quantization=int8", "`quantization`: Input should be 'nf4', 'fp4' or 'int4'"),
    ("data.format=pdf", "`data.format`: Input should be 'auto', 'messages'"),
    ("data.on_bad_row=ignore", "`data.on_bad_row`: Input should be 'stop' or 'skip'"),
    ("data.max_bad_rows=-1", "`max_bad_rows` must be a whole number of at least 0"),
    ("data.fields={question: prompt}", "`fields` names 'question', which is no column of ours"),
    ("task_eval={data: x, metric: bleu}", "`task_eval.metric`: Input should be 'exact_match'"),
    ("eval_data=[x]", "`eval_data`"),
    ("lora.r=[", "can't be read"),
    ("=3", "an override looks like key=value"),
):
    fault(f"the setting {setting[:40]}", ConfigError, says)(partial(_setting, setting=setting))


@fault("a config file that isn't there", ConfigError, "no config file at")
def _(at: Place) -> Call:
    return at.command("train", at.path / "nothing.yaml")


@fault("a folder in place of a config file", ConfigError, "no config file at")
def _(at: Place) -> Call:
    return at.command("train", at.path)


@recovers("an anchor that is used once in a config", "read as what it stands for")
def _(at: Place) -> Call:
    rows = at.rows()
    config = at.file("run.yaml", f"data: &rows {rows}\neval_data: *rows\n")
    return lambda: _check_anchor(str(config), str(rows))


def _check_anchor(config: str, rows: str) -> None:
    from quatrain.training import read_config

    assert read_config(config).held_out == read_config(config).train_data
    assert read_config(config).train_data.path == rows
