"""Rules about how a package uses TensorFlow and Keras: calls, arguments, classes."""

import ast
import re
from pathlib import Path

from mrcnn_parallel.doctor.source import (
    DISABLES_EAGER,
    canonical,
    constant,
    keyword,
    last_name,
)

PARALLEL_MODEL = Path(__file__).parents[1] / "parallel_model.py"
_OPTIMIZERS = {"SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "Adamax", "Nadam", "Ftrl", "AdamW"}
_RENAMED_ARGUMENTS = {  # of TensorFlow's functions
    "keep_dims": "keepdims",
    "reduction_indices": "axis",
    "squeeze_dims": "axis",
    "concat_dim": "axis",
    "dimension": "axis",
    "box_ind": "box_indices",
}
_GENERATOR_METHODS = {
    "fit_generator": "fit",
    "evaluate_generator": "evaluate",
    "predict_generator": "predict",
}
_LOSSES_IN_KERAS_3 = (
    "make the losses outputs of shape (), override compute_loss(), and give each a "
    "keras.metrics.Mean"
)


def own_parallel_model(module, package, machine):
    """A ParallelModel in the way of old Keras: a class whose base is the Model class."""
    for node in module.nodes(ast.ClassDef):
        bases = map(last_name, node.bases)
        if node.name in ("ParallelModel", "MultiGpuModel") and "Model" in bases:
            yield module.finding(
                node,
                "stops",
                "parallel-model",
                f"{node.name} fails when it is made with more than one GPU; where it does not, all "
                "replicas run on the first, because device scopes around a functional model's "
                "call are lost",
                f"cp {PARALLEL_MODEL} {module.path}",
            )


def graph_mode(module, package, machine):
    """Keras 3 has no graph mode."""
    for call, name, _ in module.calls:
        if machine.target == "keras3" and name.endswith(DISABLES_EAGER):
            what = "Keras 3 does not work without eager execution"
            yield module.finding(call, "stops", "graph-mode", what, "drop the line")


def optimizers(module, package, machine):
    """Optimizers' classes and arguments."""
    for call, name, last in module.calls:
        if not name.startswith("keras.optimizers.") or last not in _OPTIMIZERS:
            continue
        legacy = name == f"keras.optimizers.legacy.{last}"
        given = {argument.arg for argument in call.keywords}
        if machine.target == "keras3" and legacy:
            what = "Keras 3 has no legacy optimizers"
            yield module.finding(call, "stops", "optimizer", what, f"keras.optimizers.{last}")
        if machine.target == "tf_keras" and not legacy and package.graph_mode:
            file, line = package.graph_mode
            yield module.finding(
                call,
                "stops",
                "get-updates",
                f"in graph mode ({Path(file.path).name}:{line.lineno}) training fails: "
                f"'{last}' object has no attribute 'get_updates'",
                f"tf.keras.optimizers.legacy.{last}",
            )
        legacy = legacy or (machine.target == "tf_keras" and package.graph_mode)
        for argument in sorted(given & {"lr", "decay", "clipnorm"}):
            finding = _optimizer_argument(argument, legacy, machine)
            if finding:
                yield module.finding(call, *finding)


def _optimizer_argument(argument, legacy, machine):
    """(severity, rule, what, change) of an argument of an optimizer; None where it is right."""
    if argument == "clipnorm":
        return (
            "wrong result",
            "clipnorm",
            "clipnorm clips each weight's gradient alone; in old Keras it was the norm of all "
            "gradients together, which Matterport's GRADIENT_CLIP_NORM means",
            "global_clipnorm=",
        )
    instead = {"lr": "learning_rate=", "decay": "learning_rate=a schedule of keras.optimizers"}
    if machine.target == "keras3":
        what = f"Keras 3's optimizers have no argument {argument}"
        return "stops", "optimizer", what, instead[argument]
    if legacy:
        if argument == "decay":
            return None
        return "deprecated", "optimizer", "lr is an old name", instead["lr"]
    if argument == "lr":
        what = "lr is ignored, with a warning, and the default learning rate is used"
        return "wrong result", "optimizer", what, instead["lr"]
    what = "the optimizers have no argument decay; those in keras.optimizers.legacy do"
    return "stops", "optimizer", what, instead["decay"]


def own_optimizers(module, package, machine):
    """Classes of optimizers in the way of old Keras."""
    for node in module.nodes(ast.ClassDef):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "get_updates":
                graph = machine.target == "tf_keras" and package.graph_mode
                change = "make it a subclass of tf.keras.optimizers.legacy.Optimizer with "
                change += "_resource_apply_dense"
                yield module.finding(
                    method,
                    "stops",
                    "get-updates",
                    "Keras does not call an optimizer's get_updates any more, but apply_gradients",
                    change
                    if graph
                    else "write update_step(gradient, variable), or use an optimizer of Keras",
                )


def models_attributes(module, package, machine):
    """Attributes that models and optimizers had, most of them in Matterport's `compile`."""
    owned = "metrics_tensors" in package.assigned_attributes
    metric = 'keras_model.add_metric(loss, name=name, aggregation="mean")'
    if machine.target == "keras3":
        metric = _LOSSES_IN_KERAS_3
    for node in module.nodes(ast.Attribute):
        load = isinstance(node.ctx, ast.Load)
        if node.attr == "metrics_tensors" and load and not owned:
            what = "models have no metrics_tensors any more"
            yield module.finding(node, "stops", "metrics-tensors", what, metric)
        if node.attr == "uses_learning_phase" and load:
            what = "models have no uses_learning_phase any more"
            change = "drop the condition and what it guards"
            yield module.finding(node, "stops", "learning-phase", what, change)
        if node.attr == "append" and getattr(node.value, "attr", "") == "metrics_names":
            what = "metrics_names is a new list each time: what is appended to it is lost"
            if machine.target == "tf_keras" and any(
                last == "add_metric" for *_, last in module.calls
            ):
                severity, change = "deprecated", "drop the line, add_metric does it"
            else:
                severity, change = "wrong result", metric
            yield module.finding(node, severity, "metrics-names", what, change)
        of_optimizer = last_name(getattr(node, "value", None)) == "optimizer"
        if node.attr == "lr" and of_optimizer and machine.target == "keras3":
            what = "Keras 3's optimizers have no lr"
            yield module.finding(node, "stops", "optimizer", what, "learning_rate")


def symbolic_losses(module, package, machine):
    """What needs the tensors of a graph, where models have symbolic ones of Keras."""
    if machine.target == "tf_keras" and package.graph_mode:
        return
    for node in module.nodes(ast.Assign) if machine.target == "tf_keras" else ():
        names = set(map(last_name, node.targets)) & {"metrics_tensors", "_per_input_losses"}
        if names and isinstance(node.value, (ast.List, ast.Dict)):
            what = f"add_metric fails on a model that was given {names.pop()}: unhashable type"
            yield module.finding(node, "stops", "losses", what, "drop the line")
    for node in module.nodes(ast.Compare):
        among = isinstance(node.ops[0], (ast.In, ast.NotIn))
        if among and getattr(node.comparators[0], "attr", "") == "losses":
            what = "`in` compares symbolic tensors, which have no truth value"
            change = "drop the condition, or compare names"
            yield module.finding(node, "stops", "losses", what, change)
    for call, _, last in module.calls:
        owner = getattr(call.func, "value", None)
        of_layer = isinstance(owner, ast.Call) or last_name(owner) == "self"
        if machine.target == "tf_keras":
            loss = keyword(call, "loss") if last == "compile" else None
            if loss and re.match(r"\[None(, None)*\]", ast.unparse(loss.value)):
                what = "training fails: with losses of None it expects targets"
                yield module.finding(loss.value, "stops", "losses", what, "drop loss=")
        elif owner and (last == "add_metric" or (last == "add_loss" and not of_layer)):
            what = f"Keras 3 has no {last} of a model's tensors"
            yield module.finding(call, "stops", "losses", what, _LOSSES_IN_KERAS_3)


def weight_decay(module, package, machine):
    """Matterport's `keras_model.add_loss(tf.add_n(reg_losses))`."""
    for call, _, last in module.calls:
        given = call.args[0] if call.args else None
        of_weights = isinstance(given, ast.Call) and last_name(given.func) == "add_n"
        if machine.target != "tf_keras" or last != "add_loss" or not of_weights:
            continue
        what, severity = "add_loss refuses a sum over weights, no symbolic tensor", "stops"
        if package.graph_mode:
            severity = "wrong result"
            what = "no weight decay: in graph mode losses that don't depend on inputs are ignored"
        change = "a function that computes it from the weights: add_loss(lambda: tf.add_n("
        change += "[... for w in model.trainable_weights]))"
        yield module.finding(call, severity, "weight-decay", what, change)


def training_loops(module, package, machine):
    """`fit_generator`, and arguments that `fit` no longer takes."""
    keras3 = machine.target == "keras3"
    for call, _, last in module.calls:
        method = isinstance(call.func, ast.Attribute)
        if method and last in _GENERATOR_METHODS:
            what = f"Keras 3 has no {last}" if keras3 else f"{last} is an old name"
            severity = "stops" if keras3 else "deprecated"
            yield module.finding(call, severity, "fit", what, _GENERATOR_METHODS[last])
        if not method or last not in {*_GENERATOR_METHODS, *_GENERATOR_METHODS.values()}:
            continue
        processes = keyword(call, "use_multiprocessing")
        if not keras3 and processes and constant(processes.value) is not False:
            what = "may hang: the processes are forked while threads of TensorFlow run"
            change = "use_multiprocessing=False; workers are threads then"
            yield module.finding(call, "deprecated", "fit", what, change)
        given = {"workers", "use_multiprocessing", "max_queue_size"}
        given &= {argument.arg for argument in call.keywords}
        if keras3 and given and last not in _GENERATOR_METHODS:
            yield module.finding(
                call,
                "stops",
                "fit",
                f"Keras 3's {last} has no argument {', '.join(sorted(given))}",
                "give them to the keras.utils.PyDataset (once Sequence) that yields the data",
            )


def generators(module, package, machine):
    """Matterport's generators: `inputs, outputs`, two lists, the second of them empty."""
    for_keras = any(canonical(one.dotted).split(".")[0] == "keras" for one in module.imports)
    if not for_keras or (machine.target == "tf_keras" and package.graph_mode):
        return
    what = "Keras 3 on TensorFlow takes no lists from a generator"
    if machine.target == "tf_keras":
        what = "without graph mode tf_keras wants as many targets as the model has outputs"
    for node in module.nodes(ast.Yield, ast.Return):
        pair = node.value
        if not isinstance(pair, ast.Tuple) or len(pair.elts) != 2:
            continue
        function, targets = module.function_of(node), pair.elts[1]
        empty = [targets] + [
            assignment.value
            for assignment in ast.walk(function)
            if isinstance(assignment, ast.Assign)
            and isinstance(targets, ast.Name)
            and targets.id in map(last_name, assignment.targets)
        ]
        if any(isinstance(value, ast.List) and not value.elts for value in empty):
            change = f"(tuple({ast.unparse(pair.elts[0])}),)"
            yield module.finding(node, "stops", "generator", what, change)


def weight_files(module, package, machine):
    """Keras 3 writes weights to `.weights.h5` only."""
    if machine.target != "keras3":
        return
    texts = [constant(node) for node in module.nodes(ast.Constant)]
    texts = [text for text in texts if isinstance(text, str) and text.endswith(".h5")]
    old = any("epoch" in text and not text.endswith(".weights.h5") for text in texts)
    for call, _, last in module.calls:
        where = constant(call.args[0]) if call.args else None
        named = isinstance(where, str)
        wrong = named and where.endswith(".h5") and not where.endswith(".weights.h5")
        if last == "ModelCheckpoint" and keyword(call, "save_weights_only"):
            wrong = wrong or (not named and old)
        elif last != "save_weights":
            continue
        if wrong:
            what = "Keras 3 writes weights only to files whose names end in .weights.h5"
            change = "a name in .weights.h5, also where it is looked for (find_last, set_log_dir)"
            yield module.finding(call, "stops", "weight-files", what, change)


def arguments(module, package, machine):
    """Arguments that functions and classes no longer have."""
    for call, name, last in module.calls:
        if name.startswith("tensorflow.") and ".compat.v1." not in name:
            for argument in call.keywords:
                if argument.arg in _RENAMED_ARGUMENTS:
                    what = f"{last} has no argument {argument.arg}"
                    change = f"{_RENAMED_ARGUMENTS[argument.arg]}="
                    yield module.finding(argument.value, "stops", "argument", what, change)
        if name in ("keras.Model", "keras.models.Model"):
            for old in ("input", "output"):
                if keyword(call, old):
                    what = f"Model has no argument {old}"
                    yield module.finding(call, "stops", "argument", what, f"{old}s=")
        first = constant(call.args[0]) if call.args else None
        if last == "add_weight" and machine.target == "keras3" and isinstance(first, str):
            what = "the first argument of add_weight is the shape, in Keras 3"
            yield module.finding(call, "stops", "argument", what, "name=")


def tensors_from_outside(module, package, machine):
    """Matterport's Lambda around a function that uses an input of the model, too."""
    if machine.target == "tf_keras" and package.graph_mode:
        return
    for call, _, last in module.calls:
        function = module.function_of(call)
        if last != "Lambda" or function is None:
            continue
        inputs = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
            for target in node.targets
            if isinstance(target, ast.Name) and last_name(node.value.func) == "Input"
        }
        for body in (argument for argument in call.args if isinstance(argument, ast.Lambda)):
            own = {argument.arg for argument in body.args.args}
            used = {node.id for node in ast.walk(body.body) if isinstance(node, ast.Name)}
            for name in sorted((used & inputs) - own):
                yield module.finding(
                    call,
                    "stops",
                    "lambda",
                    f"the Lambda uses {name}, a symbolic tensor from outside",
                    f"pass it: Lambda(lambda t: ... t[0] ... t[1] ...)([x, {name}])",
                )


def nested_models(module, package, machine):
    """Matterport's way to see that a layer is a model, in set_trainable."""
    for node in module.nodes(ast.Compare):
        of_class = ast.unparse(node.left).endswith("__class__.__name__")
        if of_class and constant(node.comparators[0]) == "Model":
            what = "the class of such models is called Functional now, so they are not found"
            change = "isinstance(layer, keras.Model)"
            yield module.finding(node, "wrong result", "nested-model", what, change)


RULES = (
    graph_mode,
    optimizers,
    own_optimizers,
    models_attributes,
    symbolic_losses,
    weight_decay,
    training_loops,
    generators,
    weight_files,
    arguments,
    tensors_from_outside,
    nested_models,
)
