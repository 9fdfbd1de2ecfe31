"""Dataset: the base class for people's own data, with Matterport's interface.

Subclass it, fill it with `add_class` and `add_image`, override `load_mask` (and `load_image` where
pictures aren't files), then call `prepare`. Several sources can share one Dataset; class 0 is the
background in all of them.
"""

import numpy as np


class Dataset:
    """Classes and images by number.

    Attributes, after `prepare`:
        num_classes, class_ids, class_names: with the background, in order of `add_class`.
        num_images, image_ids: (num_images,) ints.
        class_info: dicts of source, id (the source's own), name.
        image_info: dicts of source, id (the source's own), path, and what else `add_image` got.
        sources, source_class_ids: which classes each source annotates.
    """

    def __init__(self, class_map=None):
        _refuse_class_map(class_map)
        self._image_ids = []
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids = {}

    def add_class(self, source, class_id, class_name):
        """Adds a class; a second one of the same source and id is ignored.

        Args:
            source: name of the data the class comes from, without a dot.
            class_id: the source's own id of the class.
            class_name: for display; of a list of synonyms the first, up to a comma, is shown.
        """
        if "." in source:
            raise ValueError(f"source name {source!r} must not contain a dot.")
        known = {(info["source"], info["id"]) for info in self.class_info}
        if (source, class_id) not in known:
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **kwargs):
        """Adds an image.

        Args:
            source: name of the data the image comes from.
            image_id: the source's own id of the image, of any type.
            path: the file, or None if `load_image` is overridden.
            **kwargs: whatever `load_image` and `load_mask` need, kept in `image_info`.
        """
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def image_reference(self, image_id):
        """A link to the image or a hint that helps find it; override it."""
        return ""

    def prepare(self, class_map=None):
        """Numbers classes and images; call it once all have been added."""
        _refuse_class_map(class_map)
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)

        self.class_from_source_map = {
            f"{info['source']}.{info['id']}": number
            for number, info in zip(self.class_ids, self.class_info, strict=True)
        }
        self.image_from_source_map = {
            f"{info['source']}.{info['id']}": number
            for number, info in zip(self._image_ids, self.image_info, strict=True)
        }
        self.sources = list(dict.fromkeys(info["source"] for info in self.class_info))
        self.source_class_ids = {
            source: [
                number
                for number, info in enumerate(self.class_info)
                if number == 0 or info["source"] == source
            ]
            for source in self.sources
        }

    def map_source_class_id(self, source_class_id):
        """Our number of a class given as "source.id", e.g. "coco.12" -> 23."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id, source):
        """The source's own id of our class number."""
        info = self.class_info[class_id]
        if info["source"] != source:
            raise ValueError(
                f"class {class_id} ({info['name']!r}) belongs to source {info['source']!r}, "
                f"not to {source!r}."
            )
        return info["id"]

    @property
    def image_ids(self):
        """Our numbers of the images, (num_images,); empty before `prepare`."""
        return self._image_ids

    def source_image_link(self, image_id):
        """The image's path or URL, for debugging; override it if there is something better."""
        return self.image_info[image_id]["path"]

    def load_image(self, image_id):
        """Reads the image's file: (H, W, 3) uint8; grey becomes RGB and alpha is dropped."""
        from mrcnn_parallel.data.images import read_image

        return read_image(self.image_info[image_id]["path"])

    def load_mask(self, image_id):
        """The image's instances; override it. This one says that there are none.

        Returns:
            masks: (H, W, N) bool, of the size of the image that load_image returns.
            class_ids: (N,) int32, our class numbers; negative for COCO's crowds.
        """
        return np.zeros((0, 0, 0), bool), np.zeros(0, np.int32)

    def load_polygons(self, image_id):
        """The image's instances without making masks of them, for datasets that can; see Returns.

        Override it where outlines are at hand: training then turns the outlines with the image and
        draws them once, at the size they are needed. What it returns must agree with load_mask,
        instance by instance; x = 0 is the left edge of the first pixel, x = W the right edge of
        the last.

        Returns:
            None, where the dataset only has load_mask (this one), or
            annotations: list of N, one per instance: a list of (n, 2) float64 arrays of (x, y)
                pixels, whose union is the instance; or a (H, W) bool mask; or a compressed RLE
                {"size": [H, W], "counts": bytes}.
            class_ids: (N,) int32, our class numbers; negative for COCO's crowds.
        """
        return None

    def image_file(self, image_id):
        """The path of a file that decodes to what load_image returns, or None.

        Its stored pixels count: EXIF rotation is not applied. None for URLs, and where a subclass
        has a load_image of its own, which may do more than read.
        """
        path = self.image_info[image_id]["path"]
        own = type(self).load_image is not Dataset.load_image
        return None if own or path is None or "://" in str(path) else str(path)


def _refuse_class_map(class_map):
    if class_map is not None:
        raise ValueError("class_map is not supported; map class ids in load_mask instead.")
