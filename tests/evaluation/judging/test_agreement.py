"""Agreement of judges: Fleiss' κ against published tables, rank correlations of known orders."""

import numpy as np
import pytest

from quatrain.errors import DataError
from quatrain.evaluation.judging import Verdict, agreement
from quatrain.evaluation.judging.agreement import fleiss_kappa, verdict_table
from tests.evaluation.judging.drawn import drawn_verdicts

PSYCHIATRISTS = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""
"""Fleiss 1971, table 1: 30 patients, six psychiatrists, five diagnoses."""


def test_fleiss_own_example() -> None:
    table = np.array([[int(count) for count in row] for row in PSYCHIATRISTS.split()])
    np.testing.assert_allclose(table.mean(axis=0) / 6, [0.144, 0.144, 0.167, 0.306, 0.239], atol=5e-4)
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)


def test_agreement_at_its_ends() -> None:
    assert fleiss_kappa(np.array([[2, 0], [0, 2]])) == 1
    assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1
    assert fleiss_kappa(np.array([[2, 0], [2, 0]])) is None
    for table in ([[1, 0], [0, 1]], [[2, 0], [1, 0]]):
        with pytest.raises(DataError, match="the same number of judges, at least 2"):
            fleiss_kappa(np.array(table))


def test_a_judge_agrees_with_itself() -> None:
    verdicts = drawn_verdicts(4, 10)
    found = agreement({"one": verdicts, "other": list(reversed(verdicts))}, orders=20)
    (pair,) = found.pairs
    assert (found.fleiss_kappa, found.examples) == (1, 60)
    assert (pair.judges, pair.systems, pair.kendall_tau, pair.spearman_rho) == (("one", "other"), 4, 1, 1)


def test_an_opposed_judge() -> None:
    verdicts = drawn_verdicts(4, 10)
    opposed = [Verdict(v.model_a, v.model_b, v.item, v.swapped.verdict) for v in verdicts]
    (pair,) = agreement({"one": verdicts, "other": opposed}, orders=20).pairs
    assert (pair.kendall_tau, pair.spearman_rho) == (-1, -1)


def test_a_judge_who_ties_everything_orders_nothing() -> None:
    verdicts = drawn_verdicts(3, 5)
    ties = [Verdict(v.model_a, v.model_b, v.item, "tie") for v in verdicts]
    (pair,) = agreement({"one": verdicts, "other": ties}, orders=10).pairs
    assert pair.kendall_tau is None and pair.spearman_rho is None
    assert agreement({"one": ties, "other": ties}, orders=10).fleiss_kappa is None


def test_examples_are_pairs_that_all_have_judged() -> None:
    one = [Verdict("x", "y", "1", "a"), Verdict("y", "x", "1", "b"), Verdict("x", "y", "2", "a")]
    other = [Verdict("x", "y", "1", "b"), Verdict("y", "x", "1", "b"), Verdict("y", "x", "2", "a")]
    np.testing.assert_array_equal(verdict_table([one, other]), [[1, 0, 1]])
    with pytest.raises(DataError, match="by all judges in both orders"):
        verdict_table([one, other[1:]])


def test_what_can_not_be_compared() -> None:
    verdicts = drawn_verdicts(2, 2)
    with pytest.raises(DataError, match="at least two judges, got 1: only"):
        agreement({"only": verdicts})
    others = [Verdict("x", "y", verdict.item, "a") for verdict in verdicts[:1]]
    with pytest.raises(DataError, match="by all judges in both orders"):
        agreement({"one": verdicts, "other": others}, orders=5)
