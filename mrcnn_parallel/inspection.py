"""Looking inside a model: any layer's output for real images, and the layers that led to it."""

import re
from collections import OrderedDict

import keras
import numpy as np

from mrcnn_parallel import backend


def log(text, array=None):
    """Prints a text and, with an array, its shape, range and type, as Matterport's scripts do."""
    if array is not None:
        array = np.asarray(array)
        low = high = " " * 10
        if array.size:
            low, high = (f"{float(limit(array)):10.5f}" for limit in (np.min, np.max))
        text = f"{text:25}shape: {array.shape!s:20}  min: {low}  max: {high}  {array.dtype}"
    print(text)


def inner_model(model):
    """The network itself, where `model` is a ParallelModel of it."""
    return getattr(model, "inner_model", model)


def layers_with_weights(model):
    """The layers of a model that have weights, those of nested models included."""
    layers = []
    for layer in inner_model(model).layers:
        layers += layer.layers if isinstance(layer, keras.Model) else [layer]
    return [layer for layer in layers if layer.weights]


def run_graph(model, images, outputs, image_metas=None):
    """What chosen layers of an inference model compute from images; also prints their ranges.

    Runs on one device, whatever GPU_COUNT is.

    Args:
        model: a MaskRCNN in mode "inference".
        images: list of (H, W, C) arrays; with image_metas, molded images of one shape.
        outputs: list of (name, output), where output is a layer's `output`, such as
            `model.keras_model.get_layer("ROI").output`, or a layer's name.
        image_metas: (B, META), as `mold_inputs` returns them.

    Returns:
        An OrderedDict: name -> NumPy array, (B, ...).

    Raises:
        ValueError: an output that is not of this model, images of several shapes, or a model built
            for training.
    """
    if model.mode != "inference":
        raise ValueError("run_graph needs a model built with mode='inference'.")
    outputs = OrderedDict(outputs)
    network = inner_model(model.keras_model)
    tensors = [_tensor_of(model.keras_model, name, value) for name, value in outputs.items()]
    if image_metas is None:
        images, image_metas, _ = model.mold_inputs(images)
    shapes = sorted({np.shape(image) for image in images})
    if len(shapes) != 1:
        raise ValueError(
            f"run_graph takes images of one shape, but these are {shapes} after resizing; call it "
            "once for each."
        )
    anchors = model.get_anchors(shapes[0])
    anchors = np.ascontiguousarray(np.broadcast_to(anchors, (len(images), *anchors.shape)))
    run = backend.compile_forward(keras.tree.flatten, keras.Model(network.inputs, tensors))
    inputs = [np.asarray(x, np.float32) for x in (images, image_metas, anchors)]
    values = [np.asarray(x) for x in run(inputs)]
    results = OrderedDict(zip(outputs, values, strict=True))
    for name, value in results.items():
        log(name, value)
    return results


def ancestor(tensor, name, checked=None):
    """The output of the nearest layer upstream of a tensor whose whole name matches.

    Args:
        tensor: a layer's `output`.
        name: regex of a layer's name, such as "rpn_bbox" or "res4.*_out".
        checked: list of tensors not to look at; those that were are added to it.

    Returns:
        That layer's output, a KerasTensor; None if there is no such layer upstream.

    Raises:
        ValueError: `name` is that of an operation in a TensorFlow 1 graph.
    """
    if "/" in name or re.search(r":\d+$", name):
        layers = dict.fromkeys(parent._keras_history.operation.name for parent in upstream(tensor))
        raise ValueError(
            f"{name!r} is the name of an operation in a TensorFlow 1 graph, and there are none in "
            "Keras 3; name a layer instead, or take its output from keras_model.get_layer(...)"
            f".output. Nearest upstream are: {', '.join(list(layers)[:8])}."
        )
    for parent in upstream(tensor, checked):
        if re.fullmatch(name, parent._keras_history.operation.name):
            return parent
    return None


def upstream(tensor, checked=None):
    """The tensors that a KerasTensor was computed from, each once, nearest first."""
    checked = [] if checked is None else checked
    seen = {id(one) for one in checked}
    waiting = [tensor]
    while waiting:
        operation, node_index, _ = waiting.pop(0)._keras_history
        for parent in operation._inbound_nodes[node_index].input_tensors:
            if id(parent) not in seen:
                seen.add(id(parent))
                checked.append(parent)
                waiting.append(parent)
                yield parent


def in_network(keras_model, tensor):
    """The network's own output, where `tensor` is that of a ParallelModel of it."""
    network = inner_model(keras_model)
    for outer, inner in zip(keras_model.outputs, network.outputs, strict=True):
        if tensor is outer:
            return inner
    return tensor


def _tensor_of(keras_model, name, output):
    """The KerasTensor of the network that an entry of run_graph's outputs means."""
    if isinstance(output, str):
        output = inner_model(keras_model).get_layer(output).output
    if isinstance(output, (list, tuple)) and output:
        raise ValueError(
            f"run_graph: output {name!r} is a list; give one of its tensors. A convolution before "
            "a fixed batch norm (res2a_branch2a, ...) only hands its input and weights on: take "
            "the batch norm's output (bn2a_branch2a, ...). For those inside rpn_model take "
            "'rpn_class' or 'rpn_bbox'."
        )
    if not isinstance(output, keras.KerasTensor):
        raise ValueError(
            f"run_graph: output {name!r} is {type(output).__name__}; give a layer's output, "
            "keras_model.get_layer(...).output, or the layer's name."
        )
    output = in_network(keras_model, output)
    inputs = {id(tensor) for tensor in inner_model(keras_model).inputs}
    sources = [one for one in (output, *upstream(output)) if not _parents(one)]
    if any(id(source) not in inputs for source in sources):
        raise ValueError(
            f"run_graph: output {name!r}, of layer {output._keras_history.operation.name!r}, is "
            "not computed from this model's inputs; layers inside a nested model, such as "
            "rpn_model's, have no output of their own: take one downstream, e.g. 'rpn_class'."
        )
    return output


def _parents(tensor):
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index].input_tensors
