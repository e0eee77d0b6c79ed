from pathlib import Path

import pytest

from reeltag.data.vocab import check_labels, read_labels, vocabulary, vocabulary_names
from reeltag.errors import ManifestError, UnknownName

FIRST_LAST = {
    "mmit_313": (313, "crafting", "jogging"),
    "moments_339": (339, "clapping", "typing"),
    "kinetics400": (400, "abseiling", "zumba"),
    "kinetics600": (600, "abseiling", "zumba"),
    "kinetics700": (700, "abseiling", "zumba"),
    "audioset_527": (527, "Speech", "Field recording"),
    "youtube8m_3862": (3862, "Game", "Gamblerz"),
}


@pytest.mark.parametrize("name", FIRST_LAST)
def test_shipped_vocabularies_have_their_counts_and_order(name):
    labels = vocabulary(name)
    assert (len(labels), labels[0], labels[-1]) == FIRST_LAST[name]
    assert check_labels(labels, where=name) == labels


def test_youtube8m_is_in_index_order_not_in_order_of_counts():
    labels = vocabulary("youtube8m_3862")
    # Index 30 and 31 stand the other way round in the published file, which is sorted by the number of videos.
    assert labels[30:32] == ["Motorcycle", "Piano"]
    assert labels[1979] == "Space Marines (Warhammer 40,000)"


def test_every_vocabulary_is_named_in_the_test_above():
    assert vocabulary_names() == sorted(FIRST_LAST)


def test_unknown_name_says_the_close_one():
    with pytest.raises(UnknownName, match=r"'kinetics40'.*Did you mean 'kinetics400'"):
        vocabulary("kinetics40")


def test_a_file_is_a_vocabulary(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeffrain\r\ndog barking\r\nline\u2028separator\r\n\r\n".encode())
    assert vocabulary(file) == ["rain", "dog barking", "line\u2028separator"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\na\n", "label 3: 'a' stands at 1 already"),
        (b"a\n\nb\n", "label 2: '' cannot be a label"),
        (b"a|b\n", "cannot be a label"),
        (b" a\n", "cannot be a label"),
        (b"\n\n", "no labels"),
        (b"\xff\xfe\n", "not UTF-8"),
    ],
)
def test_bad_label_files_are_refused_with_the_place(tmp_path: Path, text, message):
    file = tmp_path / "labels.txt"
    file.write_bytes(text)
    with pytest.raises(ManifestError, match=message):
        read_labels(file)
