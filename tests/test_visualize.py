"""Each function of `visualize`: the pixels it changes, the marks it leaves on the axes."""

import logging
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import patches

from mrcnn_parallel import drawing, plots, visualize

NAMES = ["BG", "disk", "box"]
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def scene():
    """A black 40 x 60 image with two rectangles of different classes."""
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[5, 10, 15, 30], [20, 35, 38, 55]])
    masks = np.zeros((40, 60, 2), bool)
    for index, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, index] = True
    return image, boxes, masks, np.array([1, 2])


def _rectangles(ax):
    """(y1, x1, y2, x2) of the rectangles on the axes."""
    found = []
    for patch in ax.patches:
        if isinstance(patch, patches.Rectangle):
            x1, y1 = patch.get_xy()
            found.append((y1, x1, y1 + patch.get_height(), x1 + patch.get_width()))
    return found


def _texts(ax):
    return [text.get_text() for text in ax.texts]


def _picture(ax):
    return np.asarray(ax.images[-1].get_array())


def _rendered(figure):
    """The figure as (H, W, 3) uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def _pixel_at(ax, x, y):
    """The color matplotlib really put at data coordinates (x, y)."""
    shot = _rendered(ax.figure)
    column, row = ax.transData.transform((x, y))
    return shot[shot.shape[0] - 1 - int(row), int(column)]


# === Pixels ===


def test_random_colors_differ_and_keep_brightness():
    colors = visualize.random_colors(7)
    assert len(set(colors)) == 7
    assert all(max(color) == 1.0 and min(color) == 0.0 for color in colors)
    assert all(
        max(color) == pytest.approx(0.7) for color in visualize.random_colors(5, bright=False)
    )
    assert visualize.random_colors(0) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float32])
def test_apply_mask_blends_inside_and_only_there(dtype):
    image = np.full((4, 5, 3), 100, dtype)
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    out = visualize.apply_mask(image, mask, (1.0, 0.5, 0.0), alpha=0.4)
    assert out is image and out.dtype == dtype
    # 100 * 0.6 + 0.4 * 255 * color
    np.testing.assert_allclose(out[mask], np.broadcast_to([162, 111, 60], (4, 3)))
    assert (out[~mask] == 100).all()


def test_apply_mask_says_which_sizes_disagree():
    with pytest.raises(ValueError, match=r"mask of \(3, 5\) for an image of \(4, 5\)"):
        visualize.apply_mask(np.zeros((4, 5, 3)), np.zeros((3, 5), bool), RED)


def test_draw_box_is_a_frame_two_pixels_wide():
    image = visualize.draw_box(np.zeros((20, 30, 3), np.uint8), [4, 6, 12, 20], [9, 8, 7])
    expected = np.zeros((20, 30), bool)
    expected[4:14, 6:22] = True  # both edges are drawn inwards of (y1, x1), outwards of (y2, x2)
    expected[6:12, 8:20] = False
    expected[4:6, 20:22] = True
    np.testing.assert_array_equal((image == [9, 8, 7]).all(-1), expected)
    assert (image[~expected] == 0).all()


def test_draw_box_clips_at_the_border():
    image = visualize.draw_box(np.zeros((10, 10, 3), np.uint8), [-5, -1, 30, 8], [1, 1, 1])
    assert image[:, 0].all() and image[:, 8:10].all()
    assert not image[:, 2:8].any()


# === Pictures ===


def test_display_images_draws_each_image_in_its_cell():
    color = np.full((8, 8, 3), (200, 30, 40), np.uint8)
    grey = np.arange(64).reshape(8, 8)
    figure = visualize.display_images([color, grey, grey > 5], ["a", "b", "c"], cols=2, cmap="gray")
    axes = figure.axes
    assert len(axes) == 4  # 2 x 2, the last one empty
    assert [ax.get_title() for ax in axes] == ["a", "b", "c", ""]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), color)
    np.testing.assert_array_equal(axes[1].images[0].get_array(), grey)
    assert axes[1].images[0].get_cmap().name == "gray"
    assert not axes[3].images
    with pytest.raises(ValueError, match="2 images but 1 titles"):
        visualize.display_images([color, color], ["a"])


def test_display_instances_boxes_masks_captions(scene):
    image, boxes, masks, class_ids = scene
    ax = visualize.display_instances(
        image, boxes, masks, class_ids, NAMES, scores=[0.9, 0.25], title="T", colors=[RED, BLUE]
    )
    assert ax.get_title() == "T"
    assert _texts(ax) == ["disk 0.900", "box 0.250"]
    np.testing.assert_allclose(_rectangles(ax), boxes - 0.5)
    picture = _picture(ax)
    assert (picture[masks[..., 0]] == [127, 0, 0]).all()
    assert (picture[masks[..., 1]] == [0, 0, 127]).all()
    assert (picture[~masks.any(-1)] == 0).all()
    assert (image == 0).all(), "the caller's image stays as it is"
    outlines = [patch for patch in ax.patches if isinstance(patch, patches.Polygon)]
    assert len(outlines) == 2
    # the outline follows the mask's edge, half a pixel outside its pixels' centres
    np.testing.assert_allclose(outlines[0].get_xy().min(0), [9.5, 4.5])
    np.testing.assert_allclose(outlines[0].get_xy().max(0), [29.5, 14.5])


def test_display_instances_is_what_matplotlib_renders(scene):
    image, boxes, masks, class_ids = scene
    ax = visualize.display_instances(
        image, boxes, masks, class_ids, NAMES, captions=["", ""], colors=[RED, BLUE], figsize=(6, 4)
    )
    np.testing.assert_array_equal(_pixel_at(ax, 20, 10), [127, 0, 0])
    np.testing.assert_array_equal(_pixel_at(ax, 45, 30), [0, 0, 127])
    np.testing.assert_array_equal(_pixel_at(ax, 5, 30), [0, 0, 0])


def test_display_instances_on_given_axes_without_masks_and_boxes(scene):
    image, boxes, masks, class_ids = scene
    _, given = plt.subplots()
    ax = visualize.display_instances(
        image, boxes, masks, class_ids, NAMES, ax=given, show_mask=False, show_bbox=False
    )
    assert ax is given and not ax.patches
    assert (_picture(ax) == 0).all()
    assert _texts(ax) == ["disk", "box"]
    ax = visualize.display_instances(image, boxes, None, class_ids, NAMES, show_mask=False)
    assert len(_rectangles(ax)) == 2


def test_display_instances_skips_padding_and_accepts_none(scene, caplog):
    image, boxes, masks, class_ids = scene
    boxes[1] = 0
    ax = visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    assert len(_rectangles(ax)) == 1 and _texts(ax) == ["disk"]
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        ax = visualize.display_instances(
            image, np.zeros((0, 4)), np.zeros((40, 60, 0)), np.zeros(0, int), NAMES
        )
    assert "No instances" in caplog.text and not ax.patches


def test_display_instances_names_what_disagrees(scene):
    image, boxes, masks, class_ids = scene
    with pytest.raises(ValueError, match="2 boxes but 1 masks"):
        visualize.display_instances(image, boxes, masks[..., :1], class_ids, NAMES)
    with pytest.raises(ValueError, match="2 boxes but 3 captions"):
        visualize.display_instances(image, boxes, masks, class_ids, NAMES, captions=["a"] * 3)
    with pytest.raises(ValueError, match="no masks"):
        visualize.display_instances(image, boxes, None, class_ids, NAMES)
    with pytest.raises(ValueError, match=r"has the shape \(40, 60, 2\)"):
        visualize.display_instances(image[..., :2], boxes, masks, class_ids, NAMES)


def test_grey_and_rgba_images_are_drawn_as_rgb():
    grey = np.full((3, 4), 77, np.uint8)
    assert (drawing.as_rgb(grey) == 77).all() and drawing.as_rgb(grey).shape == (3, 4, 3)
    rgba = np.concatenate([np.full((3, 4, 3), 5), np.full((3, 4, 1), 255)], -1)
    assert (drawing.as_rgb(rgba) == 5).all()
    assert drawing.as_rgb(np.array([[[300.0, -4, 12.7]]])).tolist() == [[[255, 0, 12]]]


def test_display_differences_captions_follow_the_scores(scene):
    image, boxes, masks, class_ids = scene
    # Given worst first: the captions must still sit at their own boxes.
    pred_masks = np.zeros((40, 60, 3), bool)
    pred_masks[0:4, 0:4, 0] = True  # touches nothing
    pred_masks[..., 1] = masks[..., 1]
    pred_masks[5:15, 10:25, 2] = True  # IoU 0.75 with the first
    pred_boxes = np.array([[0, 0, 4, 4], [20, 35, 38, 55], [5, 10, 15, 25]])
    ax = visualize.display_differences(
        image,
        np.concatenate([boxes, np.zeros((1, 4), boxes.dtype)]),  # a row of padding
        np.append(class_ids, 0),
        np.concatenate([masks, np.zeros((40, 60, 1), bool)], -1),
        pred_boxes,
        np.array([1, 2, 1]),
        np.array([0.6, 0.7, 0.95]),
        pred_masks,
        NAMES,
    )
    captions = {
        (text.get_position()[1] - 8, text.get_position()[0]): text.get_text()
        for text in ax.texts
        if text.get_text()
    }
    assert captions == {(5, 10): "0.95 / 0.75", (20, 35): "0.70 / 1.00", (0, 0): "0.60 / 0.00"}
    assert len(_rectangles(ax)) == 5
    colors = [
        patch.get_edgecolor()[:3] for patch in ax.patches if isinstance(patch, patches.Rectangle)
    ]
    assert colors == [GREEN, GREEN, RED, RED, RED]
    assert "green" in ax.get_title()


def test_display_differences_without_ground_truth(scene):
    image, boxes, masks, class_ids = scene
    ax = visualize.display_differences(
        image,
        boxes[:0],
        class_ids[:0],
        masks[..., :0],
        boxes,
        class_ids,
        np.array([0.9, 0.8]),
        masks,
        NAMES,
        title="mine",
    )
    assert _texts(ax) == ["0.90 / 0.00", "0.80 / 0.00"] and ax.get_title() == "mine"


def test_draw_rois(scene, caplog):
    image, boxes, _, _ = scene
    refined = boxes + np.array([1, 2, 1, 2])
    inside = np.zeros((2, 28, 28), np.float32)
    inside[0] = 1.0
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        ax = visualize.draw_rois(image, boxes, refined, inside, np.array([2, 0]), NAMES)
    assert "Positive ROIs: 1, negative ROIs: 1, positive share: 0.50" in caplog.text
    np.testing.assert_allclose(
        _rectangles(ax), np.stack([boxes[0], refined[0], boxes[1]]) - 0.5
    )  # the negative one is not refined
    assert _texts(ax) == ["box"]
    (link,) = ax.lines
    np.testing.assert_allclose(link.get_xydata(), [[9.5, 4.5], [11.5, 5.5]])
    tinted = _picture(ax).any(-1)
    y1, x1, y2, x2 = boxes[0]
    assert tinted[y1:y2, x1:x2].mean() > 0.95
    tinted[y1:y2, x1:x2] = False
    assert not tinted.any()


def test_draw_rois_limits_how_many(scene):
    image = scene[0]
    rois = np.tile([[2, 3, 20, 30]], (25, 1))
    ax = visualize.draw_rois(
        image, rois, rois, np.zeros((25, 4, 4)), np.zeros(25, int), NAMES, limit=6
    )
    assert len(_rectangles(ax)) == 6 and ax.get_title() == "6 random ROIs of 25"


def test_display_top_masks_orders_classes_by_area(scene):
    image, _, masks, class_ids = scene
    masks = np.concatenate([masks, np.zeros((40, 60, 1), bool)], -1)
    masks[0, 0, 2] = True  # a second, small disk
    figure = visualize.display_top_masks(image, masks, np.append(class_ids, 1), NAMES, limit=3)
    assert [ax.get_title() for ax in figure.axes] == ["H x W = 40x60", "box", "disk", "-"]
    disks = np.asarray(figure.axes[2].images[0].get_array())
    assert disks[0, 0] == 2 and disks[10, 20] == 1 and disks.max() == 2
    assert np.count_nonzero(disks) == 201
    assert not np.asarray(figure.axes[3].images[0].get_array()).any()


def test_draw_boxes_styles_links_and_masks(scene):
    image, boxes, masks, _ = scene
    refined = boxes + 2.0
    ax = visualize.draw_boxes(
        image, boxes, refined, masks=masks, captions=["a", "b"], visibilities=[0, 1], title="B"
    )
    assert ax.get_title() == "B" and _texts(ax) == ["a", "b"]
    np.testing.assert_allclose(_rectangles(ax), np.stack([*boxes, refined[1]]) - 0.5)
    rectangles = [patch for patch in ax.patches if isinstance(patch, patches.Rectangle)]
    assert rectangles[0].get_edgecolor() == (0.5, 0.5, 0.5, 0.5)
    assert [patch.get_linestyle() for patch in rectangles] == [":", ":", "-"] or [
        patch.get_linestyle() for patch in rectangles
    ] == ["dotted", "dotted", "solid"]
    assert len(ax.lines) == 1
    assert (_picture(ax)[masks[..., 0]] == 63).all()  # half of grey 0.5 on black


def test_draw_boxes_with_only_one_kind(scene):
    image, boxes, _, _ = scene
    boxes[0] = 0
    _, given = plt.subplots()
    assert visualize.draw_boxes(image, boxes, ax=given) is given
    assert len(_rectangles(given)) == 1
    assert len(_rectangles(visualize.draw_boxes(image, refined_boxes=scene[1]))) == 2
    with pytest.raises(ValueError, match="needs boxes or refined_boxes"):
        visualize.draw_boxes(image)


# === Where it is shown ===


def test_shows_only_where_the_backend_can(monkeypatch, scene):
    image, boxes, masks, class_ids = scene
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append("shown"))
    visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    visualize.plot_precision_recall(0.5, [1], [1])
    assert calls == []
    monkeypatch.setattr(plt, "get_backend", lambda: "QtAgg")
    visualize.display_instances(image, boxes, masks, class_ids, NAMES)
    visualize.display_images([image])
    visualize.draw_boxes(image, boxes)
    assert len(calls) == 3
    _, ax = plt.subplots()
    visualize.display_instances(image, boxes, masks, class_ids, NAMES, ax=ax)
    visualize.draw_boxes(image, boxes, ax=ax)
    assert len(calls) == 3, "the owner of the axes shows them"


def test_importing_does_not_load_matplotlib():
    code = "import sys, mrcnn_parallel.visualize; sys.exit('matplotlib' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_plots_are_reachable_from_visualize():
    assert visualize.display_table is plots.display_table
    assert all(callable(getattr(visualize, name)) for name in visualize.__all__)
