"""Checksums, TFRecord files and tf.train messages, held to TensorBoard's writer and to Google's protocol buffers."""

import contextlib

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as their_masked
from tensorboard.summary.writer.record_writer import RecordWriter

from reeltag.data.crc32c import crc32c, masked_crc32c, masked_crc32c_of_windows
from reeltag.data.tf_example import (
    byte_frames,
    decode_example,
    decode_frames,
    decode_sequence,
    encode_example,
    encode_sequence,
    fields,
    write_varint,
)
from reeltag.data.tfrecord import read_records, write_records
from reeltag.errors import StoreError

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this one and the next three: RFC 3720, appendix B.4
        (bytes([255] * 32), 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_the_standard(data, value):
    assert crc32c(data) == value


def bit_by_bit(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [31, 32, 33, 39, 40, 41, 2319, 2320, 2321, 2328, 4640, 4648, 9287, 20001])
def test_crc32c_by_folding_equals_bit_by_bit(size):
    data = RANDOM.bytes(size)
    assert crc32c(data) == bit_by_bit(data)
    assert crc32c(memoryview(data)[3:]) == bit_by_bit(data[3:])


def test_masked_crc32c_is_tensorboards():
    for size in (0, 8, 100, 5000, 400_000):
        data = RANDOM.bytes(size)
        assert masked_crc32c(data) == their_masked(data)
    octets = np.frombuffer(RANDOM.bytes(50), dtype=np.uint8)
    for size in (4, 8, 13):
        expected = [their_masked(octets[i : i + size].tobytes()) for i in range(51 - size)]
        assert masked_crc32c_of_windows(octets, size).tolist() == expected
    assert len(masked_crc32c_of_windows(octets[:5], 8)) == 0


@pytest.fixture
def contents():
    return [RANDOM.bytes(size) for size in (100, 0, 7, 3000, 50, 50)]


def read(path, **options):
    damages = []
    return [record.data for record in read_records(path, on_damage=damages.append, **options)], damages


def test_records_are_those_of_tensorboard_in_both_directions(tmp_path, contents):
    with open(tmp_path / "theirs", "wb") as file:
        writer = RecordWriter(file)
        for data in contents:
            writer.write(data)
    assert write_records(tmp_path / "ours", contents) == 6
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert read(tmp_path / "theirs") == (contents, [])
    assert [record.offset for record in read_records(tmp_path / "ours")] == [0, 116, 132, 155, 3171, 3237]


def test_parts_give_every_record_once(tmp_path, contents):
    write_records(tmp_path / "r", contents)
    shares = [read(tmp_path / "r", part=part, parts=4)[0] for part in range(4)]
    assert [len(share) for share in shares] == [2, 2, 1, 1]
    assert sorted(data for share in shares for data in share) == sorted(contents)
    with pytest.raises(ValueError, match="part must be in"):
        next(read_records(tmp_path / "r", part=4, parts=4))


# Where a byte is changed (record 3 starts at 155), what is said about which record, and what is lost.
DAMAGES = [
    (155 + 12 + 1500, 155, r"the content \(3000 bytes\) does not match its checksum", [3]),
    (155 + 12 + 3000, 155, "the content", [3]),  # the stored checksum itself
    (155, 155, "the length does not match its checksum; the next whole record is at byte 3171", [3]),
    (155 + 9, 155, "the length does not match", [3]),
    (3171 + 3, 3171, "next whole record is at byte 3237", [4]),
    (3237 + 2, 3237, "the length does not match its checksum; no whole record behind it", [5]),
    (3, 0, "next whole record is at byte 116", [0]),
]


@pytest.mark.parametrize(("place", "offset", "message", "lost"), DAMAGES)
def test_a_damaged_record_is_named_and_the_rest_is_read(tmp_path, contents, place, offset, message, lost):
    path = tmp_path / "r.tfrecord"
    write_records(path, contents)
    raw = bytearray(path.read_bytes())
    raw[place] ^= 0x10
    path.write_bytes(raw)
    found, damages = read(path)
    assert found == [data for number, data in enumerate(contents) if number not in lost]
    assert [(damage.path, damage.offset) for damage in damages] == [(str(path), offset)]
    with pytest.raises(StoreError, match=f"r.tfrecord, byte {offset}: .*{message}"):
        list(read_records(path))
    # Readers that share a file report each damage once.
    both = [read(path, part=part, parts=2) for part in range(2)]
    assert sorted(both[0][0] + both[1][0]) == sorted(found)
    assert both[0][1] + both[1][1] == damages


def test_truncated_empty_and_missing_files(tmp_path, contents):
    path = tmp_path / "r"
    write_records(path, contents)
    whole = path.read_bytes()
    for cut, message in (
        (3237 + 5, "5 bytes into a record"),
        (3237 + 30, "the record has 50 bytes and the file ends 18"),
    ):
        path.write_bytes(whole[:cut])
        found, (damage,) = read(path)
        assert found == contents[:5]
        assert message in damage.message
    path.write_bytes(b"")
    assert read(path) == ([], [])
    path.write_bytes(b"this is no record file, but a text that somebody renamed")
    assert read(path)[1][0].offset == 0
    with pytest.raises(StoreError, match="No such file"):
        list(read_records(tmp_path / "absent"))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(1, 255))
def test_any_flipped_byte_costs_one_record_at_most(tmp_path_factory, middle, place, flip):
    contents = [b"a" * 40, middle, b"c" * 60]
    path = tmp_path_factory.mktemp("flip") / "r"
    write_records(path, contents)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= flip
    path.write_bytes(raw)
    found, damages = read(path)
    assert len(damages) == 1
    assert len(found) == 2
    assert all(data in contents for data in found)


@pytest.fixture(scope="module")
def messages():
    """The classes of tf.train's messages, made by Google's library from the definition of the format."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name, *entries):
        kind = file.message_type.add(name=name)
        for field, number, type_, repeated, of in entries:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            kind.field.add(name=field, number=number, type=type_, label=label, type_name=of and f".t.{of}")
        return kind

    message("BytesList", ("value", 1, kinds.TYPE_BYTES, True, None))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, True, None))
    message("Int64List", ("value", 1, kinds.TYPE_INT64, True, None))
    names = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    message("Feature", *((f, i + 1, kinds.TYPE_MESSAGE, False, of) for i, (f, of) in enumerate(names)))
    message("FeatureList", ("feature", 1, kinds.TYPE_MESSAGE, True, "Feature"))
    for outer, field, of in (("Features", "feature", "Feature"), ("FeatureLists", "feature_list", "FeatureList")):
        entry = f"{'Feature' if of == 'Feature' else 'FeatureList'}Entry"
        kind = message(outer, (field, 1, kinds.TYPE_MESSAGE, True, f"{outer}.{entry}"))
        nested = kind.nested_type.add(name=entry)
        nested.options.map_entry = True
        nested.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
        nested.field.add(
            name="value", number=2, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL, type_name=f".t.{of}"
        )
    message("Example", ("features", 1, kinds.TYPE_MESSAGE, False, "Features"))
    message(
        "SequenceExample",
        ("context", 1, kinds.TYPE_MESSAGE, False, "Features"),
        ("feature_lists", 2, kinds.TYPE_MESSAGE, False, "FeatureLists"),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))
        for name in ("Example", "SequenceExample")
    }


INTEGERS = np.array([0, 1, 127, 128, 3861, 2**40, -1, -(2**63), 2**63 - 1])
FLOATS = np.array([0.0, -1.5, 3e38, 1e-40, np.inf], dtype=np.float32)


def test_examples_are_googles_in_both_directions(messages):
    theirs = messages["Example"]()
    feature = theirs.features.feature
    feature["id"].bytes_list.value.extend([b"abc", b"\x00\xff"])
    feature["labels"].int64_list.value.extend(INTEGERS.tolist())
    feature["mean_rgb"].float_list.value.extend(FLOATS.tolist())
    feature["nothing"].SetInParent()
    feature["none"].int64_list.SetInParent()
    ours = decode_example(theirs.SerializeToString())
    assert ours["id"] == [b"abc", b"\x00\xff"]
    assert ours["labels"].tolist() == INTEGERS.tolist()
    assert ours["mean_rgb"].tobytes() == FLOATS.tobytes()
    assert (ours["nothing"], ours["none"].tolist()) == ([], [])
    written = encode_example({"id": ours["id"], "labels": ours["labels"], "mean_rgb": ours["mean_rgb"]})
    back = messages["Example"].FromString(written)
    del feature["nothing"], feature["none"]
    assert back == theirs


def test_sequences_are_googles_in_both_directions(messages):
    frames = {
        "rgb": RANDOM.integers(0, 256, (5, 300), dtype=np.uint8),
        "audio": RANDOM.integers(0, 256, (5, 9), dtype=np.uint8),
    }
    theirs = messages["SequenceExample"]()
    theirs.context.feature["id"].bytes_list.value.append(b"x")
    theirs.context.feature["labels"].int64_list.value.extend([3, 300])
    for name, matrix in frames.items():
        for row in matrix:
            theirs.feature_lists.feature_list[name].feature.add().bytes_list.value.append(row.tobytes())
    context, lists = decode_sequence(theirs.SerializeToString())
    assert (context["id"], context["labels"].tolist()) == ([b"x"], [3, 300])
    for name, matrix in frames.items():
        np.testing.assert_array_equal(decode_frames(lists[name]), matrix)
    back = messages["SequenceExample"].FromString(encode_sequence(context, frames))
    assert back == theirs


def test_frames_that_are_no_matrix(messages):
    theirs = messages["SequenceExample"]()
    lists = theirs.feature_lists.feature_list
    lists["empty"].SetInParent()
    for value in ([1.0, 2.0], [3.0, -4.0]):
        lists["floats"].feature.add().float_list.value.extend(value)
    for size in (3, 4):
        lists["uneven"].feature.add().bytes_list.value.append(bytes(size))
    lists["hole"].feature.add().bytes_list.value.append(b"ab")
    lists["hole"].feature.add()
    lists["numbers"].feature.add().int64_list.value.append(1)
    found = decode_sequence(theirs.SerializeToString())[1]
    assert decode_frames(found["empty"]).shape == (0, 0)
    assert decode_frames(found["floats"]).tolist() == [[1.0, 2.0], [3.0, -4.0]]
    with pytest.raises(ValueError, match=r"all of one length; found lengths \[3, 4\]"):
        decode_frames(found["uneven"])
    with pytest.raises(ValueError, match=r"found lengths \[-1, 2\]"):
        decode_frames(found["hole"])
    with pytest.raises(ValueError, match=r"found lengths \[-1\]"):
        decode_frames(found["numbers"])


def test_frames_with_unusual_headers_are_read_field_by_field():
    """A length may be written with more digits than it needs; rows are then no longer alike, and still right."""
    plain = bytes([0x0A, 6, 0x0A, 4, 0x0A, 2, 7, 8])
    longer = bytes([0x0A, 7, 0x0A, 5, 0x0A, 0x82, 0x00, 9, 10])
    assert byte_frames(memoryview(plain + plain)).tolist() == [[7, 8], [7, 8]]
    assert byte_frames(memoryview(plain + longer)).tolist() == [[7, 8], [9, 10]]
    # Eight bytes a frame again, but the second is another message: nothing is taken for granted.
    with pytest.raises(ValueError, match="found lengths"):
        byte_frames(memoryview(plain + bytes([0x0A, 6, 0x0A, 4, 0x12, 2, 7, 8])))


@given(st.binary(max_size=60))
def test_garbage_is_a_value_error_and_nothing_else(data):
    for decode in (decode_example, lambda d: [decode_frames(v) for v in decode_sequence(d)[1].values()]):
        with contextlib.suppress(ValueError):
            decode(data)


def test_broken_messages_are_named():
    for data, message in (
        (b"\x0a\x05ab", "goes over the end of its message by 3"),
        (b"\xff" * 11, "longer than 64 bits"),
        (b"\x0b", "wire type 3 is not one of proto3"),
        (b"\x08", "a number is cut off"),
    ):
        with pytest.raises(ValueError, match=message):
            list(fields(memoryview(data)))
    assert write_varint(300) == b"\xac\x02"
