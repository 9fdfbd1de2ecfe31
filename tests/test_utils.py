"""utils: Matterport's names, anchors against the goldens, batch_slice, and the download."""

import contextlib
import functools
import hashlib
import http.server
import inspect
import logging
import threading

import numpy as np
import pytest
from keras import ops

from mrcnn_parallel import utils
from mrcnn_parallel.config import Config
from mrcnn_parallel.ops.anchors import compute_backbone_shapes, image_anchors_norm
from tests.helpers import golden

GOLDEN = golden("utils")

# Matterport's signatures. Ours may go on after them.
SIGNATURES = {
    "extract_bboxes": "mask",
    "compute_iou": "box boxes box_area boxes_area",
    "compute_overlaps": "boxes1 boxes2",
    "compute_overlaps_masks": "masks1 masks2",
    "non_max_suppression": "boxes scores threshold",
    "apply_box_deltas": "boxes deltas",
    "box_refinement_graph": "box gt_box",
    "box_refinement": "box gt_box",
    "resize_image": "image min_dim=None max_dim=None min_scale=None mode='square'",
    "resize_mask": "mask scale padding crop=None",
    "minimize_mask": "bbox mask mini_shape",
    "expand_mask": "bbox mini_mask image_shape",
    "mold_mask": "mask config",
    "unmold_mask": "mask bbox image_shape",
    "generate_anchors": "scales ratios shape feature_stride anchor_stride",
    "generate_pyramid_anchors": "scales ratios feature_shapes feature_strides anchor_stride",
    "trim_zeros": "x",
    "compute_matches": "gt_boxes gt_class_ids gt_masks pred_boxes pred_class_ids pred_scores "
    "pred_masks iou_threshold=0.5 score_threshold=0.0",
    "compute_ap": "gt_boxes gt_class_ids gt_masks pred_boxes pred_class_ids pred_scores "
    "pred_masks iou_threshold=0.5",
    "compute_ap_range": "gt_box gt_class_id gt_mask pred_box pred_class_id pred_score pred_mask "
    "iou_thresholds=None verbose=1",
    "compute_recall": "pred_boxes gt_boxes iou",
    "batch_slice": "inputs graph_fn batch_size names=None",
    "download_trained_weights": "coco_model_path verbose=1",
    "norm_boxes": "boxes shape",
    "denorm_boxes": "boxes shape",
    "resize": "image output_shape order=1 mode='constant' cval=0 clip=True preserve_range=False "
    "anti_aliasing=False anti_aliasing_sigma=None",
}
DATASET = {
    "__init__": "self class_map=None",
    "add_class": "self source class_id class_name",
    "add_image": "self source image_id path **kwargs",
    "image_reference": "self image_id",
    "prepare": "self class_map=None",
    "map_source_class_id": "self source_class_id",
    "get_source_class_id": "self class_id source",
    "source_image_link": "self image_id",
    "load_image": "self image_id",
    "load_mask": "self image_id",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_function_has_matterports_signature(name):
    assert name in utils.__all__
    check_signature(getattr(utils, name), SIGNATURES[name])


@pytest.mark.parametrize("name", DATASET)
def test_dataset_has_matterports_methods(name):
    check_signature(getattr(utils.Dataset, name), DATASET[name])


def test_all_names_are_there():
    assert all(hasattr(utils, name) for name in utils.__all__)
    assert isinstance(utils.Dataset.image_ids, property)


def check_signature(function, expected):
    parameters = [str(p) for p in inspect.signature(function).parameters.values()]
    expected = expected.split(" ")
    assert parameters[: len(expected)] == expected
    assert all("=" in extra for extra in parameters[len(expected) :])


class TestAnchors:
    def test_the_default_pyramid_as_in_the_golden(self):
        config = Config(NUM_CLASSES=2)
        anchors = utils.generate_pyramid_anchors(
            config.RPN_ANCHOR_SCALES,
            config.RPN_ANCHOR_RATIOS,
            compute_backbone_shapes(config, (1024, 1024, 3)),
            config.BACKBONE_STRIDES,
            config.RPN_ANCHOR_STRIDE,
        )
        assert anchors.shape == tuple(GOLDEN["anchors1024_shape"])
        digest = hashlib.sha256(np.ascontiguousarray(anchors, np.float32).tobytes()).hexdigest()
        assert digest == str(GOLDEN["anchors1024_sha256_f32"])
        np.testing.assert_allclose(anchors.sum(axis=0), GOLDEN["anchors1024_sum"], rtol=1e-12)
        samples = GOLDEN["anchors1024_idx"]
        np.testing.assert_array_equal(anchors[samples], GOLDEN["anchors1024_samples"])
        np.testing.assert_array_equal(
            utils.norm_boxes(anchors, (1024, 1024))[samples], GOLDEN["anchors1024_norm_samples"]
        )
        np.testing.assert_array_equal(
            image_anchors_norm(config, (1024, 1024, 3))[samples],
            GOLDEN["anchors1024_norm_samples"],
        )

    def test_every_other_cell_as_in_the_golden(self):
        anchors = utils.generate_pyramid_anchors((16, 32), [0.5, 1, 2], [(8, 6), (4, 3)], [4, 8], 2)
        np.testing.assert_array_equal(anchors, GOLDEN["anchors_stride2"])
        one_level = utils.generate_anchors(16, [0.5, 1, 2], (8, 6), 4, 2)
        np.testing.assert_array_equal(one_level, GOLDEN["anchors_stride2"][:36])

    @pytest.mark.parametrize("shape", [(1024, 1024, 3), (320, 512, 3)])
    def test_backbone_shapes_as_in_the_golden(self, shape):
        name = "1024" if shape[0] == 1024 else "320x512"
        shapes = compute_backbone_shapes(Config(NUM_CLASSES=2), shape)
        np.testing.assert_array_equal(shapes, GOLDEN[f"backbone_shapes_{name}"])


def test_box_refinement_graph_as_in_the_golden():
    deltas = utils.box_refinement_graph(
        ops.convert_to_tensor(GOLDEN["b1"][:15]), ops.convert_to_tensor(GOLDEN["b2"])
    )
    deltas = ops.convert_to_numpy(deltas)
    assert deltas.dtype == np.float32
    np.testing.assert_allclose(deltas, GOLDEN["box_refinement"], rtol=1e-5, atol=1e-5)


class TestBatchSlice:
    def test_one_output(self):
        x, y = np.arange(12.0).reshape(3, 4), np.arange(3.0)
        result = utils.batch_slice([x, y], lambda a, b: ops.sum(a) * b, 3)
        np.testing.assert_allclose(ops.convert_to_numpy(result), x.sum(axis=1) * y)

    def test_several_outputs_and_a_single_input(self):
        x = ops.convert_to_tensor(np.arange(12.0).reshape(3, 4))
        result = utils.batch_slice(x, lambda a: (a + 1, ops.max(a)), 3, names=["a", "b"])
        assert isinstance(result, list)
        np.testing.assert_allclose(ops.convert_to_numpy(result[0]), ops.convert_to_numpy(x) + 1)
        np.testing.assert_allclose(ops.convert_to_numpy(result[1]), [3, 7, 11])


CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000).astype(np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of `script`: a status, or what to do with the content."""

    def __init__(self, script, requests, *args):
        self.script, self.requests = script, requests
        super().__init__(*args)

    def do_GET(self):
        self.requests.append(self.path)
        action = self.script.pop(0)
        if isinstance(action, int):
            self.send_error(action)
            return
        content = b"x" + CONTENT[1:] if action == "damaged" else CONTENT
        self.send_response(200)
        if action != "no length":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if action == "cut off" else content)

    def log_message(self, *args):
        """Nothing: the base class writes to stderr."""


@contextlib.contextmanager
def server(*script):
    """A server on this machine; yields the file's URL and the list of requests."""
    requests = []
    handler = functools.partial(Handler, list(script), requests)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/weights.h5", requests
        finally:
            httpd.shutdown()


class TestDownload:
    @pytest.fixture(autouse=True)
    def _no_proxy(self, monkeypatch):
        monkeypatch.setenv("no_proxy", "127.0.0.1")

    def fetch(self, url, path, **options):
        utils.download(url, path, **{"verbose": 0, "wait_s": 0.01, **options})

    def test_whole_and_under_its_own_name_only(self, tmp_path, capfd):
        path = tmp_path / "new" / "folder" / "w.h5"
        with server("whole") as (url, requests):
            self.fetch(url, path, size=len(CONTENT), md5=MD5)
        assert path.read_bytes() == CONTENT
        assert [p.name for p in path.parent.iterdir()] == ["w.h5"]
        assert len(requests) == 1
        assert capfd.readouterr().err == ""

    def test_progress_is_shown(self, tmp_path, capfd):
        with server("whole") as (url, _):
            self.fetch(url, tmp_path / "w.h5", verbose=1)
        shown = capfd.readouterr().err
        assert "weights.h5: 100%" in shown
        assert "3.00M/3.00M" in shown

    @pytest.mark.parametrize("trouble", ["cut off", "damaged", 500, 503])
    def test_trouble_that_passes(self, tmp_path, trouble, caplog):
        path = tmp_path / "w.h5"
        with server(trouble, trouble, "whole") as (url, requests), caplog.at_level(logging.WARNING):
            self.fetch(url, str(path), size=len(CONTENT), md5=MD5)
        assert path.read_bytes() == CONTENT
        assert len(requests) == 3
        assert len(caplog.messages) == 2

    @pytest.mark.parametrize(
        ("trouble", "message"),
        [
            ("cut off", r"3 of 3 tries.*got \d+ bytes instead of 3000000"),
            ("damaged", r"3 of 3 tries.*its MD5 is \w+ instead of"),
            (500, r"3 of 3 tries.*HTTP Error 500"),
        ],
    )
    def test_trouble_that_stays(self, tmp_path, trouble, message):
        path = tmp_path / "w.h5"
        path.write_bytes(b"the old file")
        with (
            server(*[trouble] * 3) as (url, requests),
            pytest.raises(OSError, match=rf"could not download {url} .*{message}.*save it as"),
        ):
            self.fetch(url, path, size=len(CONTENT), md5=MD5, attempts=3)
        assert path.read_bytes() == b"the old file"
        assert [p.name for p in tmp_path.iterdir()] == ["w.h5"]
        assert len(requests) == 3

    def test_a_refusal_is_not_tried_again(self, tmp_path):
        with (
            server(404) as (url, requests),
            pytest.raises(OSError, match=r"1 of 4.*HTTP Error 404"),
        ):
            self.fetch(url, tmp_path / "w.h5")
        assert len(requests) == 1
        assert list(tmp_path.iterdir()) == []

    def test_nobody_there(self, tmp_path):
        with server() as (url, _):
            pass
        with pytest.raises(OSError, match="2 of 2 tries"):
            self.fetch(url, tmp_path / "w.h5", attempts=2)
        assert list(tmp_path.iterdir()) == []

    def test_a_server_that_does_not_say_the_length(self, tmp_path):
        with server("no length") as (url, _):
            self.fetch(url, tmp_path / "w.h5")
        assert (tmp_path / "w.h5").read_bytes() == CONTENT

    def test_matterports_weights_are_checked(self, tmp_path, monkeypatch):
        assert utils.COCO_MODEL_BYTES == 257_557_808
        with server("whole", "whole") as (url, _):
            monkeypatch.setattr(utils, "COCO_MODEL_URL", url)
            monkeypatch.setattr(utils.time, "sleep", lambda seconds: None)
            monkeypatch.setattr(utils, "COCO_MODEL_BYTES", len(CONTENT))
            monkeypatch.setattr(utils, "COCO_MODEL_MD5", MD5)
            utils.download_trained_weights(str(tmp_path / "coco.h5"), verbose=0)
        assert (tmp_path / "coco.h5").read_bytes() == CONTENT
        with server(*["whole"] * 4) as (url, requests):
            monkeypatch.setattr(utils, "COCO_MODEL_URL", url)
            monkeypatch.setattr(utils, "COCO_MODEL_MD5", "0" * 32)
            with pytest.raises(OSError, match="its MD5 is"):
                utils.download_trained_weights(str(tmp_path / "other.h5"), verbose=0)
        assert len(requests) == 4
