import pytest

from quatrain.evaluation.metrics import exact_match, json_match, number_match


@pytest.mark.parametrize(
    ("metric", "answer", "reference", "expected"),
    [
        (exact_match, " yes\n", "yes", True),
        (exact_match, "Yes", "yes", False),
        (json_match, '{"b": 1, "a": [1, 2]}', '{"a":[1,2],"b":1}', True),
        (json_match, '{"a": 1}', '{"a": "1"}', False),
        (json_match, "not json", "not json", False),
        (json_match, "null", "null", True),
        (number_match, "so it is $1,234.50.", "#### 1234.5", True),
        (number_match, "7 then 8", "8 then 7", False),
        (number_match, "none", "none", False),
        (number_match, "-3", "3", False),
    ],
)
def test_metrics(metric, answer, reference, expected):
    assert metric(answer, reference) is expected
