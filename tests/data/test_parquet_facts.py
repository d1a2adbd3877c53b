import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from temperance.data import DataArgs, load_dataset, parquet_facts
from temperance.data.catalog import dataset_facts
from temperance.data.images import DatasetFacts
from temperance.errors import UserError


def encode(shape):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write(file, n, *, shape=(6, 9, 3), classes=None, struct=True, first=None):
    encoded = [encode(shape)] * n
    if first is not None:
        encoded[0] = first
    column = [{"bytes": content} for content in encoded] if struct else encoded
    kind = pa.struct([("bytes", pa.binary())]) if struct else pa.binary()
    table = pa.table({"image": pa.array(column, kind), "label": [row % 4 for row in range(n)]})
    metadata = {"classes": json.dumps(classes)} if classes else None
    pq.write_table(table.replace_schema_metadata(metadata), file)


def args(path, **settings):
    return DataArgs(name="parquet", path=path, **settings)


@pytest.mark.parametrize("classes", [None, ["a", "b", "c", "d", "never seen"]])
@pytest.mark.parametrize("struct", [True, False])
@pytest.mark.parametrize("shape", [(6, 9, 3), (8, 8)])
def test_facts_are_those_of_the_loaded_dataset(tmp_path, shape, struct, classes):
    write(tmp_path / "train.parquet", 12, shape=shape, struct=struct, classes=classes)
    write(tmp_path / "test.parquet", 8, shape=shape, struct=struct)
    for settings in (args(tmp_path), args(tmp_path, subset=10, test_subset=5)):
        data = load_dataset(settings)
        size = data.train.images.shape[1:]
        assert dataset_facts(settings) == DatasetFacts(
            len(data.train), len(data.test), *size, len(data.train.classes)
        )
    assert dataset_facts(args(tmp_path / "test.parquet")).test is None


def test_classes_that_only_the_test_set_has_count(tmp_path):
    write(tmp_path / "train.parquet", 3)
    write(tmp_path / "test.parquet", 8)
    assert dataset_facts(args(tmp_path)).classes == 4


def test_one_image_is_decoded(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", 50)
    decoded = []
    decode_one = parquet_facts._decode_one

    def counting(*given):
        decoded.append(given)
        return decode_one(*given)

    monkeypatch.setattr(parquet_facts, "_decode_one", counting)
    dataset_facts(args(tmp_path))
    assert len(decoded) == 1


def test_damage_is_named(tmp_path):
    file = tmp_path / "train.parquet"
    write(file, 3)
    content = file.read_bytes()
    with pytest.raises(UserError, match=r"no column 'picture'.*data\.image_column"):
        dataset_facts(args(tmp_path, image_column="picture"))
    with pytest.raises(UserError, match=r"no column 'y'.*data\.label_column"):
        dataset_facts(args(tmp_path, label_column="y"))
    file.write_bytes(content[:-20])
    with pytest.raises(UserError, match=r"train\.parquet: is damaged or no Parquet file"):
        dataset_facts(args(tmp_path))
    write(file, 0)
    with pytest.raises(UserError, match="holds no rows"):
        dataset_facts(args(tmp_path))
    for first in (b"", encode((4, 4))[:30]):
        write(file, 3, first=first)
        with pytest.raises(UserError, match="row 0"):
            dataset_facts(args(tmp_path))
