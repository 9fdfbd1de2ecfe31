"""What a load of weights did: the report, the errors, and the hint that says what to change."""

from dataclasses import dataclass, field

# The layers whose shapes depend on NUM_CLASSES, as Matterport's scripts list them for `exclude`.
# "mrcnn_bbox" is a reshape without weights; people's scripts name it, so the hint does too.
CLASS_HEADS = ("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask")

# Which setting fixes a size: (layer, weight, axis, size per unit of the setting, what it is).
_SETTINGS = (
    ("mrcnn_class_logits", "kernel", -1, 1, "NUM_CLASSES"),
    ("mrcnn_mask", "kernel", -1, 1, "NUM_CLASSES"),
    ("mrcnn_bbox_fc", "kernel", -1, 4, "NUM_CLASSES"),
    ("conv1", "kernel", 2, 1, "IMAGE_CHANNEL_COUNT"),
    ("rpn_class_raw", "kernel", -1, 2, "len(RPN_ANCHOR_RATIOS)"),
    ("fpn_c5p5", "kernel", -1, 1, "TOP_DOWN_PYRAMID_SIZE"),
    ("mrcnn_class_conv1", "kernel", -1, 1, "FPN_CLASSIF_FC_LAYERS_SIZE"),
    ("mrcnn_mask_conv1", "kernel", -1, 1, "FPN_MASK_CONV_SIZE"),
)

_MAX_ROWS = 12  # of one kind in the printed table; the report's lists hold all


class WeightsError(ValueError):
    """A weights file doesn't fit the model.

    `report` is the LoadReport (its `loaded` are the layers that would have fitted), or None where
    the file could not be read at all. The model's weights are as they were before the call.
    """

    def __init__(self, message, report=None):
        super().__init__(message)
        self.report = report


class WeightsFileError(WeightsError):
    """A weights file is damaged, or isn't one."""


@dataclass(frozen=True)
class ShapeMismatch:
    """One weight whose shape differs; a shape is None where that side has no such weight."""

    layer: str
    weight: str
    file_shape: tuple | None
    model_shape: tuple | None


@dataclass
class LoadReport:
    """The outcome of a load, layer by layer. A layer of a nested model reads `rpn_model/...`."""

    filepath: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # in the model, asked for, not in the file
    unused: list[str] = field(default_factory=list)  # in the file, not in the model
    mismatched: list[ShapeMismatch] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)  # excluded, or not a backbone file's part
    renamed: dict[str, str] = field(default_factory=dict)  # model's name -> file's, if they differ

    @property
    def mismatched_layers(self):
        """Names of the layers with a weight of another shape, in the model's order."""
        return list(dict.fromkeys(m.layer for m in self.mismatched))

    @property
    def num_asked(self):
        """How many layers the load was meant to fill."""
        return len(self.loaded) + len(self.missing) + len(self.mismatched_layers)

    @property
    def coverage(self):
        """Loaded layers / layers asked for, 0..1; 1.0 where none was asked for."""
        return len(self.loaded) / self.num_asked if self.num_asked else 1.0

    @property
    def complete(self):
        """True where every layer asked for has its weights from the file."""
        return not (self.missing or self.mismatched)

    @property
    def summary(self):
        """One line: file, layers loaded of those asked for, coverage."""
        return (
            f"{self.filepath}: {len(self.loaded)} of {self.num_asked} layers loaded "
            f"({100 * self.coverage:.1f} %)"
        )

    def __str__(self):
        lines = [self.summary]
        if self.mismatched:
            rows = [("layer", "weight", "in the file", "in the model")]
            rows += [
                (m.layer, m.weight, str(m.file_shape or "-"), str(m.model_shape or "-"))
                for m in self.mismatched[:_MAX_ROWS]
            ]
            widths = [max(len(row[i]) for row in rows) for i in range(4)]
            lines.append(f"  shape mismatch ({len(self.mismatched)}):")
            for row in rows:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append(("    " + "  ".join(cells)).rstrip())
            if len(self.mismatched) > _MAX_ROWS:
                lines.append(f"    ... and {len(self.mismatched) - _MAX_ROWS} more")
        pairs = [f"{theirs} -> {ours}" for ours, theirs in self.renamed.items()]
        for title, names in (
            ("missing in the file", self.missing),
            ("unused in the file", self.unused),
            ("not asked for", self.not_asked),
            ("matched by position", pairs),
        ):
            if names:
                more = f" ... and {len(names) - _MAX_ROWS} more" if len(names) > _MAX_ROWS else ""
                lines.append(f"  {title} ({len(names)}): {', '.join(names[:_MAX_ROWS])}{more}")
        return "\n".join(lines)

    @property
    def hint(self):
        """What to change so that the file loads: settings that differ, layers to exclude."""
        if not self.loaded:
            return "none of its layers is one of them in the right shape: it is another model's."
        parts = [
            f"the file has {name} = {theirs}, this model {ours}"
            for name, (theirs, ours) in _differing_settings(self.mismatched).items()
        ]
        if self.mismatched:
            parts.append(
                f"pass exclude={self._to_exclude()} to start the layers that don't fit afresh"
            )
        if self.missing:
            parts.append(f"{_enumerate(self.missing)} not in the file: {self._missing_hint()}")
        elif self.unused and not self.mismatched:
            parts.append(
                f"{_enumerate(self.unused)} only in the file: pass by_name=True to load the rest "
                "of it"
            )
        return "; ".join(parts) + "."

    def _to_exclude(self):
        leaves = [name.split("/")[-1] for name in self.mismatched_layers]
        if set(leaves) & set(CLASS_HEADS):
            leaves = [*CLASS_HEADS, *(name for name in leaves if name not in CLASS_HEADS)]
        return "[" + ", ".join(f'"{name}"' for name in leaves) + "]"

    def _missing_hint(self):
        backbone = [n for n in self.missing if n.startswith(("res", "bn")) and "_branch" in n]
        if backbone and len(backbone) == len(self.missing):
            return "is it of another BACKBONE? strict=False loads what fits"
        if self.unused:
            return (
                f"is it under another name there ({_enumerate(self.unused)} unused)? "
                "strict=False loads what fits"
            )
        return "pass strict=False to load what the file has and keep the rest as it is"


def _enumerate(names):
    """-> "a is", "a and b are", "a, b and 7 more are"."""
    if len(names) == 1:
        return f"{names[0]} is"
    if len(names) <= 3:
        return f"{', '.join(names[:-1])} and {names[-1]} are"
    return f"{', '.join(names[:2])} and {len(names) - 2} more are"


def _differing_settings(mismatches):
    """-> {setting: (the file's value, the model's)} for what the shapes give away."""
    found = {}
    for mismatch in mismatches:
        if mismatch.file_shape is None or mismatch.model_shape is None:
            continue
        if len(mismatch.file_shape) != len(mismatch.model_shape):
            continue
        for layer, weight, axis, unit, setting in _SETTINGS:
            if (mismatch.layer.split("/")[-1], mismatch.weight) == (layer, weight):
                theirs, ours = mismatch.file_shape[axis] // unit, mismatch.model_shape[axis] // unit
                if theirs != ours:
                    found.setdefault(setting, (theirs, ours))
    return found
