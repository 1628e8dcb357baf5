"""What `quatrain eval` leaves becomes a page."""

from quatrain.report import write_results
from tests.evaluation.tasks.conftest import measured


def test_every_figure_is_on_the_page(loaded, quiz, tmp_path):
    found = measured(loaded, [str(quiz)], folder=tmp_path)
    (figures,) = found.figures
    shown = write_results([found.folder]).read_text(encoding="utf-8")
    assert f"{len(figures.answers)} examples" in shown
    for metric, interval in figures.metrics.items():
        assert metric.replace("_", " ") in shown
        assert f"{100 * interval.mean:.3g}" in shown or f"{interval.mean:.3g}" in shown
