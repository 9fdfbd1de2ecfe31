"""load_weights: match layers, verify every shape, read every array, and only then assign."""

import logging
import re
from itertools import zip_longest
from pathlib import Path

from mrcnn_parallel.weights.files import open_weights
from mrcnn_parallel.weights.matching import match, model_layers, split_like_model
from mrcnn_parallel.weights.report import LoadReport, ShapeMismatch, WeightsError

log = logging.getLogger(__name__)


def load_weights(keras_model, filepath, by_name=False, exclude=None, strict=True):
    """Loads a weights file into a model, or leaves the model exactly as it was.

    Reads the h5 layout of Matterport and its forks (Keras 2.0 to tf_keras, weights alone or a whole
    model), Keras 3's `.weights.h5` and `.keras`; the content decides, not the file's name. Within a
    layer, weights are matched by position: their names depend on what else was built in the process
    that saved them.

    Args:
        keras_model: a functional Keras model, or a wrapper that has it as `inner_model`.
        filepath: str or Path.
        by_name: match layers by name alone; False also accepts other names in the same order.
        exclude: names of layers to leave as they are; implies `by_name`, as in Matterport.
        strict: False loads what fits and reports the rest.

    Returns:
        LoadReport. It is logged too: one line where all is well, a table where not.

    Raises:
        FileNotFoundError: no such file.
        WeightsFileError: the file is damaged, or isn't a weights file.
        WeightsError: a layer asked for is missing or of another shape; without by_name, also a
            layer that only the file has; strict or not, nothing at all fits.
    """
    model = getattr(keras_model, "inner_model", keras_model)
    exclude = {exclude} if isinstance(exclude, str) else set(exclude or ())
    with open_weights(filepath) as weights_file:
        layers = model_layers(model, split_wrappers=not weights_file.legacy)
        stored_layers = weights_file.layers
        if weights_file.legacy:
            stored_layers = split_like_model(stored_layers, layers)

        _warn_of_unknown(exclude, model, layers, stored_layers)
        not_asked = [x for x in layers if _is_excluded(x, exclude, weights_file.covers)]
        asked = [x for x in layers if not _is_excluded(x, exclude, weights_file.covers)]
        stored_layers = [x for x in stored_layers if not _is_excluded(x, exclude)]
        matching = match(asked, stored_layers, by_name or bool(exclude))

        report = LoadReport(
            filepath=str(Path(filepath)),
            missing=[layer.name for layer in matching.missing],
            unused=[stored.name for stored in matching.unused],
            not_asked=[layer.name for layer in not_asked],
        )
        fitting = []
        for layer, stored in matching.pairs:
            mismatches = _compare_shapes(layer, stored)
            report.mismatched += mismatches
            if not mismatches:
                fitting.append((layer, stored))
                report.loaded.append(layer.name)
                if stored.names and stored.names[-1] != layer.names[-1]:
                    report.renamed[layer.name] = stored.name
        # By order, a file with layers to spare is of another architecture.
        surplus = report.unused and not (by_name or exclude)
        if (strict and (surplus or not report.complete)) or not (report.loaded or report.complete):
            raise WeightsError(_explain(report, stored_layers), report)
        values = [
            (variable, weight.read())
            for layer, stored in fitting
            for variable, weight in zip(layer.variables, stored.weights, strict=True)
        ]
    for variable, value in values:
        variable.assign(value)

    if report.complete and not report.unused and not report.renamed:
        log.info("weights: %s", report.summary)
    else:
        log.warning("weights: %s", report)
    return report


def _warn_of_unknown(exclude, model, layers, stored_layers):
    known = {layer.name for layer in model.layers}
    for layer in [*layers, *stored_layers]:
        known.update((layer.name, *(layer.names or ())))
    if unknown := sorted(exclude - known):
        log.warning(
            "exclude: %s: no such layer in the model or the weights file", ", ".join(unknown)
        )


def _is_excluded(layer, exclude, covers=None):
    """True where the layer, or a model it lies in, is excluded or outside what a file covers."""
    names = layer.names or ()
    if exclude.intersection((layer.name, *names)):
        return True
    return covers is not None and not re.fullmatch(covers, names[-1])


def _compare_shapes(layer, stored):
    mismatches = []
    for variable, weight in zip_longest(layer.variables, stored.weights):
        model_shape = None if variable is None else tuple(variable.shape)
        file_shape = None if weight is None else weight.shape
        if model_shape != file_shape:
            name = weight.name if variable is None else variable.name
            mismatches.append(ShapeMismatch(layer.name, name, file_shape, model_shape))
    return mismatches


def _explain(report, stored_layers):
    hint = report.hint
    if any(stored.names is None for stored in stored_layers) and report.missing:
        hint = (
            "the file holds no layer names (Keras 3 began to store them later), so it only fits a "
            "model of exactly its architecture, with by_name=False and no exclude."
        )
    fit = f"{len(report.loaded)} of the {report.num_asked} layers asked for"
    return (
        f"weights file {report.filepath} fits {fit}, and nothing was loaded: {hint}\n"
        + str(report).partition("\n")[2]
    )
