"""Plots and tables of `visualize`: what stands on the axes and in the cells."""

import logging
import sys
import types

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mrcnn_parallel import visualize

NAMES = ["BG", "disk", "box"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def test_plot_precision_recall():
    ax = visualize.plot_precision_recall(0.756, np.array([1, 0.5, 0]), np.array([0, 0.5, 1]))
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 1], [0.5, 0.5], [1, 0]])
    assert "0.756" in ax.get_title() and ax.get_xlabel() == "Recall"


def test_plot_overlaps_marks_matches():
    overlaps = np.array([[0.8, 0.0], [0.6, 0.3], [0.9, 0.9]])
    ax = visualize.plot_overlaps(
        np.array([1, 2, 0]), np.array([1, 2, 0]), np.array([0.9, 0.5, 0]), overlaps, NAMES
    )
    assert _texts(ax) == ["0.800\nmatch", "0.000", "0.600\nwrong", "0.300"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["disk (0.90)", "box (0.50)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["disk", "box"]
    np.testing.assert_allclose(ax.images[0].get_array(), overlaps[:2])


def test_display_table_logs_text(caplog):
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        text = visualize.display_table([["NAME", "N"], ["longer", 12], ["x"]])
    assert text == "NAME    N\nlonger  12\nx"
    assert text in caplog.text


def test_display_table_shows_html_in_a_notebook(monkeypatch, caplog):
    shown = []
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = lambda text: text, shown.append
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        visualize.display_table([["a<b", 1]])
    assert shown == ["<table><tr><td>a&lt;b</td><td>1</td></tr></table>"]
    assert not caplog.text
    ipython.get_ipython = lambda: types.SimpleNamespace()  # IPython in a terminal
    visualize.display_table([["a"]])
    assert len(shown) == 1


def test_display_weight_stats_flags_suspects():
    import keras

    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, name="fine"),
            keras.layers.Dense(2, name="dead"),
            keras.layers.Dense(2, name="wild"),
            keras.layers.Dense(2, name="broken"),
        ]
    )
    model.get_layer("fine").set_weights([np.arange(6.0).reshape(3, 2), np.zeros(2)])
    model.get_layer("dead").set_weights([np.zeros((2, 2)), np.zeros(2)])
    model.get_layer("wild").set_weights([np.array([[1.0, -2000.0], [0, 0]]), np.zeros(2)])
    model.get_layer("broken").set_weights([np.array([[1.0, np.nan], [0, 0]]), np.zeros(2)])
    rows = visualize.display_weight_stats(model)
    assert rows[0] == ["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]
    by_name = {row[0]: row[1:] for row in rows[1:]}
    assert [value.strip() for value in by_name["fine/kernel"]] == [
        "(3, 2)",
        "+0.0000",
        "+5.0000",
        "1.7078",
    ]
    assert {name for name in by_name if "***" in name} == {
        "dead/kernel  *** dead?",
        "wild/kernel  *** overflow?",
        "broken/kernel  *** not finite",
    }
    only = types.SimpleNamespace(get_trainable_layers=lambda: [model.get_layer("fine")])
    assert len(visualize.display_weight_stats(only)) == 3  # as a MaskRCNN offers them
