"""What becomes of images that can't be loaded in training: skipped, counted, named, up to a limit.

`Config.ON_BAD_SAMPLE` "skip" replaces such a sample by another image, drawn from the seed and the
sample's place, so that a run stays reproducible. `Config.BAD_SAMPLE_LIMIT` is the share of samples
that may be bad; beyond it something is wrong with the data or the code, and training stops.
"""

import logging
import threading

log = logging.getLogger(__name__)

LEAST = 10  # so many bad samples are let pass whatever their share: few have been seen at first
_LOGGED = 20  # images named one by one in the log; all are counted
_NAMED = 10  # images named in the summary


class TooManyBadSamples(ValueError):
    """More samples than BAD_SAMPLE_LIMIT could not be loaded."""


class BadSamples:
    """Counts the bad samples of one loader; safe to use from several threads.

    Args:
        limit: share of the samples that may be bad, 0 to 1.

    Attributes:
        seen: samples tried so far. count: how many of them were bad.
        images: image id -> [times, description, reason].
    """

    def __init__(self, limit):
        self.limit = limit
        self.seen = self.count = 0
        self.images = {}
        self._lock = threading.Lock()

    def good(self):
        """Notes a sample that was loaded."""
        with self._lock:
            self.seen += 1

    def bad(self, image_id, where, error):
        """Notes one that was not.

        Args:
            where: describes the image. error: the exception.

        Raises:
            TooManyBadSamples: there have been too many; caused by `error`.
        """
        reason = _reason(error, where)
        with self._lock:
            self.seen += 1
            self.count += 1
            entry = self.images.setdefault(image_id, [0, where, reason])
            entry[0] += 1
            first, known = entry[0] == 1, len(self.images)
            too_many = self.count >= LEAST and self.count > self.limit * self.seen
        if first and known <= _LOGGED:
            log.warning("Bad sample skipped: %s: %s", where, reason)
            log.debug("Its error was:", exc_info=error)
        if first and known == _LOGGED:
            log.warning("More bad samples are only counted, not named here.")
        if too_many:
            raise TooManyBadSamples(
                f"{self.summary()} That is more than Config.BAD_SAMPLE_LIMIT = {self.limit:g} of "
                "the samples allows; repair the data, or raise the limit."
            ) from error

    def summary(self):
        """A line about all that were bad, or "" if none was."""
        with self._lock:
            entries = sorted(self.images.values(), key=lambda entry: -entry[0])
            seen, count = self.seen, self.count
        if not count:
            return ""
        named = "; ".join(
            f"{where}{f' ({times} times)' if times > 1 else ''}: {reason}"
            for times, where, reason in entries[:_NAMED]
        )
        more = f"; and {len(entries) - _NAMED} more images" if len(entries) > _NAMED else ""
        return f"{count} of {seen} samples could not be loaded and were replaced: {named}{more}."


def _reason(error, where):
    """The error's text in one line, without the image's name where it begins with that."""
    text = " ".join(str(error).split()).removeprefix(f"{where}: ").rstrip(".")
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"
