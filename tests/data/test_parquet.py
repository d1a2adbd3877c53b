import contextlib
import io
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from temperance.data import DataArgs, load_dataset
from temperance.data.parquet import _decode_one
from temperance.errors import UserError

RNG = np.random.default_rng(0)


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def decode(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def pictures(n, shape=(10, 12, 3)):
    return [RNG.integers(0, 256, shape, dtype=np.uint8) for _ in range(n)]


def write(file, encoded, labels, *, metadata=None, struct=True, label_type=None):
    if struct:
        values = [
            {"bytes": content, "path": f"train/{row}.png"} for row, content in enumerate(encoded)
        ]
        column = pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    else:
        column = pa.array(encoded, pa.binary())
    table = pa.table({"image": column, "label": pa.array(labels, label_type)})
    pq.write_table(table.replace_schema_metadata(metadata), file)


def load(path, **settings):
    return load_dataset(DataArgs(name="parquet", path=path, **settings))


@pytest.mark.parametrize("struct", [True, False])
def test_png_and_jpeg_are_decoded_as_pillow_does(tmp_path, struct):
    smooth = np.add.outer(np.arange(10), np.arange(12)).astype(np.uint8)
    smooth = np.stack([smooth * 5, smooth * 9, 255 - smooth * 3], axis=-1)
    encoded = [encode(picture) for picture in pictures(3)]
    encoded += [encode(smooth, "JPEG"), encode(smooth[::-1].copy(), "JPEG")]
    write(tmp_path / "train.parquet", encoded, [0, 1, 2, 0, 1], struct=struct, label_type=pa.int8())
    data = load(tmp_path)
    assert data.test is None
    assert data.train.images.shape == (5, 3, 10, 12)
    for row, content in enumerate(encoded):
        found = data.train.images[row].permute(1, 2, 0).numpy().astype(int)
        # JPEG decoders may differ by rounding; PNG is exact.
        assert np.abs(found - decode(content)).max() <= (0 if row < 3 else 3)
    assert data.train.targets.tolist() == [0, 1, 2, 0, 1]
    assert data.train.classes == ("0", "1", "2")


def test_a_folder_with_train_and_test_has_ids_of_its_own(tmp_path):
    for name, n in (("train", 4), ("test", 2)):
        write(
            tmp_path / f"{name}.parquet",
            [encode(p) for p in pictures(n)],
            [row % 2 for row in range(n)],
            metadata={"classes": json.dumps(["cat", "dog"])},
        )
    data = load(tmp_path)
    assert data.test is not None
    assert data.train.ids.tolist() == [0, 1, 2, 3]
    assert data.test.ids.tolist() == [4, 5]
    assert data.test.classes == ("cat", "dog")
    one = load(tmp_path / "test.parquet")
    assert one.test is None
    assert len(one.train) == 2


def test_class_names_as_hugging_face_writes_them(tmp_path):
    features = {"label": {"names": ["no", "yes", "maybe"], "_type": "ClassLabel"}}
    write(
        tmp_path / "a.parquet",
        [encode(p) for p in pictures(2)],
        [0, 1],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    assert load(tmp_path / "a.parquet").train.classes == ("no", "yes", "maybe")


def test_grey_stays_one_channel_unless_others_have_colour(tmp_path):
    grey, colour = pictures(1, (4, 4))[0], pictures(1, (4, 4, 3))[0]
    clear = np.dstack([colour, np.full((4, 4), 255, np.uint8)])
    write(tmp_path / "grey.parquet", [encode(grey)] * 2, [0, 1])
    assert load(tmp_path / "grey.parquet").train.images.shape == (2, 1, 4, 4)
    write(tmp_path / "mixed.parquet", [encode(grey), encode(colour), encode(clear)], [0, 1, 1])
    images = load(tmp_path / "mixed.parquet").train.images
    assert (images[0].numpy() == grey).all()
    assert (images[1].permute(1, 2, 0).numpy() == colour).all()
    assert (images[2] == images[1]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path, kind, kept):
    encoded = [encode(picture, kind) for picture in pictures(3)]
    encoded[2] = encoded[2][: int(kept * len(encoded[2]))]
    write(tmp_path / "train.parquet", encoded, [0, 1, 0])
    with pytest.raises(UserError, match=r"train\.parquet, row 2 \(train/2\.png\): ") as caught:
        load(tmp_path)
    assert "truncated" in caught.value.what or "holds no image" in caught.value.what


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG"]),
    place=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=8),
)
def test_no_damage_escapes_as_another_error(kind, place, junk):
    content = bytearray(encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), kind))
    start = int(place * len(content))
    content[start : start + len(junk)] = junk
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of huge sizes
        with contextlib.suppress(UserError):
            assert _decode_one(bytes(content), "here").dtype == np.uint8


def test_images_of_another_size_are_refused(tmp_path):
    encoded = [encode(pictures(1)[0]), encode(pictures(1, (8, 8, 3))[0])]
    write(tmp_path / "a.parquet", encoded, [0, 1])
    with pytest.raises(UserError, match=r"row 1 .*8×8, the first one 10×12"):
        load(tmp_path / "a.parquet")


def test_test_images_of_another_size_are_refused(tmp_path):
    write(tmp_path / "train.parquet", [encode(p) for p in pictures(2)], [0, 1])
    write(tmp_path / "test.parquet", [encode(p) for p in pictures(2, (8, 8, 3))], [0, 1])
    with pytest.raises(UserError, match=r"test images are \(3, 8, 8\)"):
        load(tmp_path)


def test_sixteen_bits_are_refused(tmp_path):
    deep = encode(np.full((4, 4), 40_000, np.uint16))
    write(tmp_path / "a.parquet", [deep], [0])
    with pytest.raises(UserError, match=r"row 0 .*8 bits"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_named(tmp_path, label):
    write(
        tmp_path / "train.parquet",
        [encode(p) for p in pictures(3)],
        [0, label, 1],
        metadata={"classes": '["cat", "dog"]'},
    )
    with pytest.raises(UserError, match=rf"row 1: the label {label} is not one of the 2 classes"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "found"), [(["a", "b"], "string"), ([0, None], "1 nulls"), ([0.0, 1.0], "double")]
)
def test_labels_that_are_no_integers_are_refused(tmp_path, labels, found):
    write(tmp_path / "a.parquet", [encode(p) for p in pictures(2)], labels)
    with pytest.raises(UserError, match=rf"'label' must hold integers only, but has {found}"):
        load(tmp_path / "a.parquet")


def test_columns_can_be_named_and_a_missing_one_gets_the_nearest(tmp_path):
    write(tmp_path / "a.parquet", [encode(p) for p in pictures(2)], [0, 1])
    with pytest.raises(UserError, match=r"no column 'images'.*data\.image_column.*'image'"):
        load(tmp_path / "a.parquet", image_column="images")
    with pytest.raises(UserError, match=r"must hold encoded images, .* but is int64"):
        load(tmp_path / "a.parquet", image_column="label")


def test_damaged_empty_and_missing_files(tmp_path):
    file = tmp_path / "a.parquet"
    write(file, [encode(p) for p in pictures(2)], [0, 1])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: is damaged or no Parquet file"):
        load(file)
    write(file, [], [], label_type=pa.int64())
    with pytest.raises(UserError, match="holds no rows"):
        load(file)
    write(file, [encode(pictures(1)[0])], [0], metadata={"classes": "[cat"})
    with pytest.raises(UserError, match="class names"):
        load(file)
    with pytest.raises(UserError, match=r"train\.parquet: there is no such file"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"data\.path: which file"):
        load(None)
