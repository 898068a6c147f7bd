"""Ground truth beside predictions: which label file belongs to an image, and what it says."""

from pathlib import Path, PurePosixPath

from stepseg.data.files import read_label
from stepseg.data.labels import LabelMap
from stepseg.data.specs import DatasetSpec, get_spec
from stepseg.pictures.drawing import Labels
from stepseg.predict.inputs import File, stamp_of_image

LABEL_IDS = ("published", "training")


class TruthFolder:
    """A folder of label files, named like the images or as the data set publishes them.

    Args:
        folder: of the label files, with the subfolders of the images.
        data_name: the data set that the model was trained on; its published ids are understood.
        label_ids: ``published``, the ids of that data set's files where it has its own, or
            ``training``: 0 to C-1, 255 ignored.

    Raises:
        ValueError: no such folder or kind of ids.

    """

    def __init__(
        self, folder: str | Path, data_name: str, num_classes: int, label_ids: str = "published"
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"labels={str(folder)!r} is not a folder")
        if label_ids not in LABEL_IDS:
            raise ValueError(f"label_ids={label_ids!r}: choose from {', '.join(LABEL_IDS)}")
        self.spec = published_spec(data_name, num_classes) if label_ids == "published" else None
        self.identity = LabelMap.identity(num_classes)

    def find(self, file: File) -> tuple[Path, LabelMap] | None:
        """The label file of an image and the map of its ids, None if there is none."""
        for relative, label_map in self._candidates(file.relative):
            if (self.folder / relative).is_file():
                return self.folder / relative, label_map
        return None

    def stamp(self, file: File) -> tuple[int, ...]:
        """Size and time of the label file of an image, empty if there is none.

        Raises:
            ImageFileError: it vanished; names it.

        """
        found = self.find(file)
        return () if found is None else stamp_of_image(found[0])

    def read(self, file: File, size: tuple[int, int]) -> Labels | None:
        """Training ids of an image of (height, width), uint8 ``[H, W]``, None if there are none.

        Raises:
            ValueError: unreadable, an unknown id, or another size; names the file.

        """
        found = self.find(file)
        if found is None:
            return None
        path, label_map = found
        return label_map.apply(read_label(path, size), path)

    def _candidates(self, relative: str) -> list[tuple[str, LabelMap]]:
        stem = PurePosixPath(relative).with_suffix("").as_posix()
        if self.spec is None:
            return [(f"{stem}.png", self.identity)]
        found = []
        for arrangements in self.spec.layout.splits.values():
            for dirs in arrangements:
                for suffix in dirs.image_suffixes:
                    if relative.lower().endswith(suffix.lower()):
                        name = f"{relative[: -len(suffix)]}{dirs.label_suffix}"
                        found.append((name, self.spec.label_maps[dirs.encoding]))
        return [*found, (f"{stem}.png", self.spec.label_map)]


def published_spec(name: str, num_classes: int) -> DatasetSpec | None:
    """The data set of a model, with its own ids, where they are known without its folder."""
    try:
        spec = get_spec(name)
    except ValueError:
        return None
    return spec if spec.num_classes == num_classes else None
