"""COCO metrics: a case computed by hand, pycocotools' numbers, bad input."""

import copy
import json
import logging

import numpy as np
import pytest

from mrcnn_parallel.data import coco_format
from mrcnn_parallel.training import coco_eval

# Interpolated precision at 101 recalls: 0.00 ... 0.50 are reached by the first hit, the rest by the
# second, which comes after one false alarm.
AP_BOTH_FOUND = (51 * 1.0 + 50 * 2 / 3) / 101
AP_ONE_FOUND = 51 / 101


def _rectangle(height, width, y1, x1, y2, x2):
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _annotation(annotation_id, image_id, box, category_id=7, **more):
    y1, x1, y2, x2 = box
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (y2 - y1) * (x2 - x1),
        "iscrowd": 0,
        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        **more,
    }


def _detection(boxes, class_ids, scores, size):
    masks = [_rectangle(*size, *box) for box in boxes]
    return {
        "rois": np.array(boxes, np.int32).reshape(-1, 4),
        "class_ids": np.array(class_ids, np.int32),
        "scores": np.array(scores, np.float32),
        "masks": np.stack(masks, -1) if masks else np.zeros((*size, 0), bool),
    }


@pytest.fixture
def two_objects():
    """Two 40 x 40 objects; found are the first exactly, nothing, and 27/40 of the second."""
    ground_truth = {
        "images": [{"id": 3, "height": 100, "width": 120}],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [_annotation(1, 3, (0, 0, 40, 40)), _annotation(2, 3, (50, 50, 90, 90))],
    }
    boxes = [(50, 50, 90, 77), (0, 0, 40, 40), (0, 60, 40, 100)]
    detection = _detection(boxes, [1, 1, 1], [0.7, 0.9, 0.8], (100, 120))
    return ground_truth, {3: detection}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_hand_computed_case(two_objects, iou_type, caplog):
    with caplog.at_level(logging.INFO, "mrcnn_parallel"):
        metrics = coco_eval.evaluate_detections(*two_objects, iou_types=(iou_type,))[iou_type]
    # The second hit has IoU 27/40 = 0.675: it counts at 4 of the 10 thresholds (0.50 to 0.65).
    average = (4 * AP_BOTH_FOUND + 6 * AP_ONE_FOUND) / 10
    expected = {
        "AP": average,
        "AP50": AP_BOTH_FOUND,
        "AP75": AP_ONE_FOUND,
        "APs": -1,
        "APm": average,  # 1600 pixels each
        "APl": -1,
        "AR1": 0.5,
        "AR10": 0.7,
        "AR100": 0.7,
        "ARs": -1,
        "ARm": 0.7,
        "ARl": -1,
    }
    assert list(metrics) == list(expected)
    assert metrics == pytest.approx(expected, abs=1e-6)
    table = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert len(table) == 13 and iou_type in table[0] and "on 1 images" in table[0]
    assert table[2] == (
        " Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = 0.835"
    )
    assert table[7] == (
        " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=  1 ] = 0.500"
    )


def test_ground_truth_as_path_dict_and_objects(two_objects, tmp_path):
    ground_truth, detections = two_objects
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(ground_truth))
    expected = coco_eval.evaluate_detections(ground_truth, detections)
    forms = [str(path), path, coco_format.load_coco(path), _pycocotools_coco(ground_truth)]
    for form in forms:
        assert coco_eval.evaluate_detections(form, detections) == expected


def _pycocotools_coco(ground_truth):
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = copy.deepcopy(ground_truth)
    coco.createIndex()
    return coco


def test_input_is_not_changed(two_objects):
    ground_truth, detections = two_objects
    before = copy.deepcopy(ground_truth)
    results = coco_eval.to_coco_results(3, detections[3], [0, 7])
    results_before = copy.deepcopy(results)
    coco_eval.evaluate_results(ground_truth, results, "bbox")
    coco_eval.evaluate_results(ground_truth, results, "segm")
    assert ground_truth == before and results == results_before


def test_annotation_id_zero_counts(two_objects):
    ground_truth, detections = two_objects
    expected = coco_eval.evaluate_detections(ground_truth, detections)
    ground_truth["annotations"][0]["id"] = 0
    assert coco_eval.evaluate_detections(ground_truth, detections) == expected


def test_missing_area_box_and_crowd_flag_are_filled_in(two_objects):
    ground_truth, detections = two_objects
    expected = coco_eval.evaluate_detections(ground_truth, detections)
    for annotation in ground_truth["annotations"]:
        for key in ("area", "bbox", "iscrowd"):
            del annotation[key]
    assert coco_eval.evaluate_detections(ground_truth, detections) == expected


def test_detections_inside_a_crowd_region_do_not_count(two_objects):
    ground_truth, detections = two_objects
    crowd = _rectangle(100, 120, 0, 60, 40, 110)  # where the false alarm is
    ground_truth["annotations"].append(
        _annotation(9, 3, (0, 60, 40, 110), iscrowd=1, segmentation=_counts(crowd))
    )
    metrics = coco_eval.evaluate_detections(ground_truth, detections)
    assert metrics["bbox"]["AP50"] == pytest.approx(1.0)
    assert metrics["segm"]["AP50"] == pytest.approx(1.0)


def _counts(mask):
    """Uncompressed RLE, counted one pixel at a time."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").astype(int):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def test_size_of_a_mask_detection_is_its_masks_area(two_objects):
    # An unmatched detection whose box is of medium size but whose mask is small is not a false
    # alarm among the medium objects.
    ground_truth, _ = two_objects
    detection = _detection([(0, 0, 40, 40), (50, 50, 90, 90)], [1, 1], [0.8, 0.7], (100, 120))
    false_alarm = _rectangle(100, 120, 0, 60, 40, 61) | _rectangle(100, 120, 0, 60, 1, 100)
    detection["masks"] = np.concatenate([false_alarm[..., None], detection["masks"]], -1)
    detection["rois"] = np.concatenate([[[0, 60, 40, 100]], detection["rois"]])
    detection["scores"] = np.array([0.9, 0.8, 0.7])
    detection["class_ids"] = np.array([1, 1, 1])
    metrics = coco_eval.evaluate_detections(ground_truth, {3: detection})
    assert metrics["segm"]["APm"] == pytest.approx(1.0)
    assert metrics["segm"]["AP50"] < 0.9 and metrics["bbox"]["APm"] < 0.9


def test_only_the_given_images_count(two_objects):
    ground_truth, detections = two_objects
    ground_truth["images"].append({"id": 4, "height": 50, "width": 50})
    ground_truth["annotations"].append(_annotation(5, 4, (0, 0, 40, 40)))
    alone = coco_eval.evaluate_detections(ground_truth, detections, iou_types=("bbox",))["bbox"]
    assert alone["AP50"] == pytest.approx(AP_BOTH_FOUND)
    detections[4] = _detection([], [], [], (50, 50))  # looked at, nothing found
    both = coco_eval.evaluate_detections(ground_truth, detections, iou_types=("bbox",))["bbox"]
    assert both["AR100"] == pytest.approx((4 * 2 / 3 + 6 * 1 / 3) / 10)


def test_no_detections_at_all(two_objects):
    ground_truth, _ = two_objects
    metrics = coco_eval.evaluate_detections(ground_truth, {3: _detection([], [], [], (100, 120))})
    for iou_type in ("bbox", "segm"):
        assert metrics[iou_type]["AP"] == 0 and metrics[iou_type]["AR100"] == 0
        assert metrics[iou_type]["APs"] == -1


def test_class_ids_map_to_categories(two_objects):
    ground_truth, detections = two_objects
    ground_truth["categories"].insert(0, {"id": 90, "name": "other"})
    expected = coco_eval.evaluate_detections(ground_truth, detections)["bbox"]["AP50"]
    assert expected == pytest.approx(AP_BOTH_FOUND)  # class 1 is the lowest id, 7
    detections[3]["class_ids"][:] = 5
    metrics = coco_eval.evaluate_detections(ground_truth, detections, category_ids={5: 7, 6: 90})
    assert metrics["bbox"]["AP50"] == pytest.approx(AP_BOTH_FOUND)
    wrong = coco_eval.evaluate_detections(ground_truth, detections, category_ids={5: 90})
    assert wrong["bbox"]["AP50"] == 0


def test_same_numbers_as_pycocotools():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(5)
    size = (160, 200)
    images = [{"id": i, "height": size[0], "width": size[1]} for i in range(1, 7)]
    annotations, detections = [], {}
    for image in images:
        boxes, class_ids, scores = [], [], []
        for _ in range(rng.integers(1, 7)):
            height, width = rng.integers(8, 120, 2)
            y1, x1 = rng.integers(0, size[0] - height), rng.integers(0, size[1] - width)
            box = [int(side) for side in (y1, x1, y1 + height, x1 + width)]
            category = int(rng.integers(1, 4))
            crowd = {"iscrowd": 1, "segmentation": _counts(_rectangle(*size, *box))}
            annotations.append(
                _annotation(
                    len(annotations) + 1,
                    image["id"],
                    box,
                    category * 10,
                    **(crowd if rng.random() < 0.2 else {}),
                )
            )
            for _ in range(rng.integers(0, 3)):
                found = np.clip(np.array(box) + rng.integers(-6, 7, 4), 0, [*size, *size])
                if (found[2:] > found[:2]).all():
                    boxes.append(found.tolist())
                    class_ids.append(category if rng.random() < 0.9 else category % 3 + 1)
                    scores.append(rng.random())
        detections[image["id"]] = _detection(boxes, class_ids, scores, size)
    categories = [{"id": 10 * i, "name": str(i)} for i in (1, 2, 3)]
    ground_truth = {"images": images, "annotations": annotations, "categories": categories}
    metrics = coco_eval.evaluate_detections(ground_truth, detections)
    assert 0.1 < metrics["segm"]["AP"] < 0.9

    coco = _pycocotools_coco({**ground_truth, "info": {}})
    for iou_type in ("bbox", "segm"):
        results = []
        for image_id, detection in detections.items():
            results += coco_eval.to_coco_results(image_id, detection, [0, 10, 20, 30])
        if iou_type == "segm":
            for result in results:
                del result["bbox"]
        evaluator = cocoeval.COCOeval(coco, coco.loadRes(results), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        np.testing.assert_allclose(list(metrics[iou_type].values()), evaluator.stats, atol=1e-9)


def test_results_hold_coco_boxes_and_masks():
    detection = _detection([(2, 3, 7, 9)], [2], [0.5], (10, 12))
    (result,) = coco_eval.to_coco_results(41, detection, [0, 18, 44])
    assert result["image_id"] == 41 and result["category_id"] == 44 and result["score"] == 0.5
    assert result["bbox"] == [3, 2, 6, 5]
    mask = coco_format.rle_to_mask(result["segmentation"])
    np.testing.assert_array_equal(mask, detection["masks"][..., 0])
    del detection["masks"]
    assert "segmentation" not in coco_eval.to_coco_results(41, detection, [0, 18, 44])[0]


def test_bad_input_is_named(two_objects):
    ground_truth, detections = two_objects
    with pytest.raises(ValueError, match="iou_type is 'mask'"):
        coco_eval.evaluate_results(ground_truth, [], "mask")
    with pytest.raises(ValueError, match=r"Images \[8\]"):
        coco_eval.evaluate_detections(ground_truth, {8: detections[3]})
    with pytest.raises(ValueError, match="Image 3: a detection has class id 2"):
        detection = {**detections[3], "class_ids": np.array([1, 2, 1])}
        coco_eval.evaluate_detections(ground_truth, {3: detection})
    with pytest.raises(ValueError, match=r"Image 3: rois, .* hold \[3, 3, 2, 3\]"):
        coco_eval.evaluate_detections(ground_truth, {3: {**detections[3], "scores": [0.1, 0.2]}})
    with pytest.raises(ValueError, match="Image 3: a detected mask is 50 x 120 pixels"):
        detection = {**detections[3], "masks": detections[3]["masks"][:50]}
        coco_eval.evaluate_detections(ground_truth, {3: detection})
    with pytest.raises(ValueError, match="Image 3: a result has no segmentation"):
        detection = {key: value for key, value in detections[3].items() if key != "masks"}
        coco_eval.evaluate_detections(ground_truth, {3: detection})
